package host

import (
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/sluicehq/sluice/proto/job"
)

// The master dies in the middle of an answer and its replica takes over, without
// the frames that had not reached it: the host writes them again.
func TestAnswerSurvivesAFailoverToAReplica(t *testing.T) {
	t.Parallel()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := fmt.Sprint(ln.Addr().(*net.TCPAddr).Port)
	ln.Close()
	master := startServer(t, "--port", port)
	replica := startServer(t, "--replicaof", "127.0.0.1", port)
	direct := redis.NewClient(&redis.Options{Addr: replica.addr})
	t.Cleanup(func() { direct.Close() })
	eventually(t, "the replica follows", func() bool {
		info, err := direct.Info(t.Context(), "replication").Result()
		return err == nil && strings.Contains(info, "master_link_status:up")
	})

	w := newWorld(t, master.addr)
	c := &counter{every: 2 * time.Millisecond}
	h := w.host(tuned(nil), provider("fake", c.generate))
	id := w.create(job.Job{})
	w.waitFor(id, "chunks", func(f job.Frame) bool { return f.Event == job.EventChunk && f.Seq > 10 })
	eventually(t, "the replica has the job", func() bool {
		n, err := direct.Exists(t.Context(), "sluice:{job:"+id+"}:log").Result()
		return err == nil && n == 1
	})
	// What is written from here on the replica doesn't get.
	if err := direct.ReplicaOf(t.Context(), "NO", "ONE").Err(); err != nil {
		t.Fatal(err)
	}
	before := c.said.Load()
	eventually(t, "frames that only the master has", func() bool { return c.said.Load() > before+50 })
	master.kill()
	w.line.redirect(replica.addr)
	h.line.redirect(replica.addr)
	eventually(t, "the answer goes on", func() bool { return c.said.Load() > before+300 })
	c.finish.Store(true)
	l := w.follow(id, 0)
	if n := countedText(t, l.complete().Text); int64(n) != c.said.Load() {
		t.Errorf("%d words arrived of %d", n, c.said.Load())
	}
	if l.last().Attempt != 1 {
		t.Errorf("it took attempt %d", l.last().Attempt)
	}
	countedText(t, w.follow(w.create(job.Job{}), 0).text()) // new jobs run there, too
}
