package main

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/sluicehq/sluice/proto/job"
)

// store is a redis-server of the bench, and the host's end of it.
//
// Jobs are created and begun through package job. Their frames are written here,
// as job's append script does it (log, position, channel) but without its checks
// and pipelined: one script per frame at 50,000 a second would make Redis, which
// shares its CPU with the clients, the thing that is measured.
type store struct {
	dir    string
	socket string
	cmd    *exec.Cmd
	rdb    *redis.Client
	jobs   *job.Store

	nc   net.Conn
	w    *bufio.Writer
	raw  []byte
	err  atomic.Pointer[error]
	open map[string]*openJob
}

// openJob is a running job that the bench writes.
type openJob struct {
	id, user string
	seq      int
	text     hash.Hash
}

func startRedis() (*store, error) {
	dir, err := os.MkdirTemp("", "bench")
	if err != nil {
		return nil, err
	}
	s := &store{dir: dir, socket: filepath.Join(dir, "redis.sock"), open: map[string]*openJob{}}
	s.cmd = exec.Command("redis-server", "--port", "0", "--unixsocket", s.socket, "--save", "", "--appendonly", "no", "--dir", dir)
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	s.rdb = redis.NewClient(&redis.Options{Network: "unix", Addr: s.socket})
	s.jobs = job.NewStore(s.rdb, job.Options{})
	for range 500 {
		if s.nc, err = net.Dial("unix", s.socket); err == nil {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if err != nil {
		s.stop()
		return nil, fmt.Errorf("start redis-server: %w", err)
	}
	s.w = bufio.NewWriterSize(s.nc, 256<<10)
	go s.replies()
	return s, nil
}

func (s *store) stop() {
	if s.nc != nil {
		s.nc.Close()
	}
	s.rdb.Close()
	s.cmd.Process.Kill()
	s.cmd.Wait()
	os.RemoveAll(s.dir)
}

// replies reads what Redis says to the frames and keeps the first complaint.
func (s *store) replies() {
	for r := bufio.NewReader(s.nc); ; {
		line, err := r.ReadSlice('\n')
		if err != nil {
			return
		}
		if line[0] == '-' {
			err := errors.New(strings.TrimSpace(string(line)))
			s.err.CompareAndSwap(nil, &err)
		}
	}
}

// begin makes a job and an attempt at it.
func (s *store) begin(id, user string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if _, _, err := s.jobs.Create(ctx, job.Job{ID: id, User: user, Query: "bench"}); err != nil {
		return err
	}
	if _, err := s.jobs.Begin(ctx, job.Ticket{Job: id, Attempt: 1}, "bench"); err != nil {
		return err
	}
	s.open[id] = &openJob{id: id, user: user, text: sha256.New()}
	return nil
}

// chunk writes the next frame of a job; its text tells when it was to be sent.
func (s *store) chunk(id string, at time.Duration, filler string) {
	j := s.open[id]
	j.seq++
	text := fmt.Appendf(nil, "t=%d %s", int64(at), filler)
	j.text.Write(text)
	s.raw = fmt.Appendf(s.raw[:0], `{"event":"model:chunk:v1","data":{"jobId":"%s","userId":"%s","attempt":1,"seq":%d,"chunk":"%s","index":%d,"total":null},"timestamp":%d}`,
		j.id, j.user, j.seq, text, j.seq-1, time.Now().UnixMilli())
	s.append(j)
}

// notice publishes as an older worker would: a message without a seq, which is in
// no log, on the job's channel and on the general one.
func (s *store) notice(id, note string) {
	raw := fmt.Sprintf(`{"event":"task:progress:v1","data":{"jobId":"%s","note":"%s"}}`, id, note)
	s.command("PUBLISH", job.Channel(id), raw)
	s.command("PUBLISH", job.ProgressChannel, raw)
}

// trim forgets the logs: whoever watches has had everything. It waits until that
// is done.
func (s *store) trim() error {
	pipe := s.rdb.Pipeline()
	for id := range s.open {
		pipe.XTrimMaxLen(context.Background(), logOf(id), 0)
	}
	_, err := pipe.Exec(context.Background())
	return err
}

// end writes the terminal frame of a job.
func (s *store) end(id string) {
	j := s.open[id]
	j.seq++
	s.raw = fmt.Appendf(s.raw[:0], `{"event":"model:complete:v1","data":{"jobId":"%s","userId":"%s","attempt":1,"seq":%d,"digest":"%s"},"timestamp":%d}`,
		j.id, j.user, j.seq, hex.EncodeToString(j.text.Sum(nil)), time.Now().UnixMilli())
	s.command("HSET", meta(id), "state", "complete")
	s.append(j)
}

func meta(id string) string  { return "sluice:{job:" + id + "}:meta" }
func logOf(id string) string { return "sluice:{job:" + id + "}:log" }

func (s *store) append(j *openJob) {
	seq := strconv.Itoa(j.seq)
	raw := string(s.raw)
	s.command("XADD", logOf(j.id), seq+"-0", "f", raw)
	s.command("HSET", meta(j.id), "seq", seq)
	s.command("PUBLISH", job.Channel(j.id), raw)
}

func (s *store) command(args ...string) {
	fmt.Fprintf(s.w, "*%d\r\n", len(args))
	for _, a := range args {
		fmt.Fprintf(s.w, "$%d\r\n", len(a))
		s.w.WriteString(a)
		s.w.WriteString("\r\n")
	}
}

// flush sends what was written, and fails if Redis has refused anything.
func (s *store) flush() error {
	if err := s.err.Load(); err != nil {
		return fmt.Errorf("redis: %w", *err)
	}
	return s.w.Flush()
}

// pings measures PING, a hundred times a second, until stop is called.
func (s *store) pings() (stop func() []time.Duration) {
	ctx, cancel := context.WithCancel(context.Background())
	all := make(chan []time.Duration)
	go func() {
		var took []time.Duration
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				begin := time.Now()
				if s.rdb.Ping(ctx).Err() == nil {
					took = append(took, time.Since(begin))
				}
			case <-ctx.Done():
				all <- took
				return
			}
		}
	}()
	return func() []time.Duration {
		cancel()
		return <-all
	}
}
