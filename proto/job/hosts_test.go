package job

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

// childHost is what this test binary does when it plays a host that is going to die: it announces itself, begins
// the job and appends until it is refused.
func childHost(socket, id string) {
	rdb := redis.NewClient(&redis.Options{Network: "unix", Addr: socket})
	s := NewStore(rdb, Options{})
	go NewHosts(s, slog.New(slog.DiscardHandler), HostsOptions{}).Announce(context.Background(), HostInfo{ID: "child"}, nil)
	a, err := s.Begin(context.Background(), Ticket{Job: id, Attempt: 1}, "child")
	if err != nil {
		fmt.Println(err)
		return
	}
	a.Append(context.Background(), &Start{})
	for range time.Tick(20 * time.Millisecond) { // the pace of a stream
		if err := a.Append(context.Background(), chunk("x")); err != nil {
			fmt.Println("refused", errors.Is(err, ErrFenced))
			return
		}
		fmt.Println("appended")
	}
}

func startChild(t *testing.T, socket, id string) (*exec.Cmd, *bufio.Scanner) {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "JOB_TEST_CHILD="+socket, "JOB_TEST_JOB="+id)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	sc := bufio.NewScanner(out)
	for range 3 {
		if !sc.Scan() || sc.Text() != "appended" {
			t.Fatalf("child says %q", sc.Text())
		}
	}
	return cmd, sc
}

// TestFailover: the job of a host that is killed, or hangs, runs again elsewhere, once, though three others notice.
func TestFailover(t *testing.T) {
	for name, sig := range map[string]syscall.Signal{"killed": syscall.SIGKILL, "hung": syscall.SIGSTOP} {
		t.Run(name, func(t *testing.T) {
			srv := startServer(t)
			s := NewStore(srv.client(t), Options{})
			k := create(t, s, Job{Priority: PriorityHigh})
			child, says := startChild(t, srv.socket, k.Job)

			var mu sync.Mutex
			tickets := map[Ticket]bool{}
			next := make(chan Ticket, 10)
			for i := range 3 {
				h := NewHosts(NewStore(srv.client(t), Options{}), logger(t), HostsOptions{Calm: time.Millisecond})
				start(t, func(ctx context.Context) error {
					return h.Announce(ctx, HostInfo{ID: fmt.Sprint("h", i)}, func(ctx context.Context, host string) {
						err := h.Reclaim(ctx, host, func(_ context.Context, k Ticket, priority string, _ time.Time) error {
							mu.Lock()
							defer mu.Unlock()
							if priority != PriorityHigh || host != "child" {
								t.Errorf("%s, priority %s", host, priority)
							}
							if !tickets[k] { // as asynq does by the task's id
								tickets[k] = true
								next <- k
							}
							return nil
						})
						if err != nil && ctx.Err() == nil {
							t.Error(err)
						}
					})
				})
			}
			eventually(t, "all hosts are listed", func() bool {
				hosts, err := NewHosts(s, logger(t), HostsOptions{}).List(t.Context())
				return err == nil && len(hosts) == 4
			})
			must(t, child.Process.Signal(sig))
			at := time.Now()
			var got Ticket
			select {
			case got = <-next:
			case <-time.After(soon):
				t.Fatal("not reclaimed")
			}
			t.Logf("failover took %v", time.Since(at))
			a := begin(t, s, got, "other")
			must(t, a.Append(t.Context(), &Start{Reset: a.Reset}, chunk("again")))
			if sig == syscall.SIGSTOP { // the old host wakes up
				must(t, child.Process.Signal(syscall.SIGCONT))
				for says.Scan() && says.Text() == "appended" {
				}
				if says.Text() != "refused true" {
					t.Errorf("zombie says %q", says.Text())
				}
			}
			must(t, a.Finish(t.Context(), &Complete{}))
			frames, st := logOf(t, s, k.Job)
			if textOf(t, frames) != "again" || st.Attempt != 2 || st.Crashes != 1 {
				t.Error(textOf(t, frames), st)
			}
			if len(tickets) != 1 {
				t.Error(tickets)
			}
		})
	}
}

// announced starts hosts whose judges are past their first calm, and fails the test if one is found dead.
func announced(t *testing.T, srv *server, n int, o HostsOptions) (beaten func(since time.Time)) {
	var hosts []*Hosts
	for i := range n {
		h := NewHosts(NewStore(srv.client(t), Options{}), logger(t), o)
		hosts = append(hosts, h)
		id := fmt.Sprint("h", i)
		start(t, func(ctx context.Context) error {
			return h.Announce(ctx, HostInfo{ID: id}, func(_ context.Context, host string) {
				if host != id {
					t.Errorf("%s found dead by %s", host, id)
				}
			})
		})
	}
	beaten = func(since time.Time) {
		t.Helper()
		eventually(t, "heartbeats", func() bool {
			return !slices.ContainsFunc(hosts, func(h *Hosts) bool { return !h.LastBeat().After(since) })
		})
	}
	beaten(time.Now().Add(o.Calm + time.Second))
	return beaten
}

// A Redis that stalls, for whatever time, judges nobody dead: not while it does, nor when it goes on.
func TestStallJudgesNobody(t *testing.T) {
	for _, stall := range []time.Duration{400 * time.Millisecond, 900 * time.Millisecond, 2500 * time.Millisecond, 8 * time.Second} {
		t.Run(stall.String(), func(t *testing.T) {
			t.Parallel()
			srv := startServer(t)
			beaten := announced(t, srv, 3, HostsOptions{Calm: 1500 * time.Millisecond})
			must(t, srv.Signal(syscall.SIGSTOP))
			select {
			case <-time.After(stall):
			case <-t.Context().Done():
			}
			must(t, srv.Signal(syscall.SIGCONT))
			beaten(time.Now().Add(4 * time.Second)) // well beyond the calm after it
		})
	}
}

// A host that loses its subscription again and again, and lives, is absent at most looks: its heartbeats tell.
func TestAbsentButAlive(t *testing.T) {
	t.Parallel()
	srv := startServer(t)
	rdb := srv.client(t)
	beaten := announced(t, srv, 2, HostsOptions{Calm: time.Second})
	end := time.Now().Add(4 * time.Second)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	kills := int64(0)
	for time.Now().Before(end) {
		n, err := rdb.ClientKillByFilter(t.Context(), "TYPE", "pubsub").Result()
		must(t, err)
		kills += n
		<-tick.C
	}
	if kills < 20 {
		t.Errorf("only %d subscriptions were killed", kills)
	}
	beaten(time.Now().Add(time.Second))
}

// An idle host costs Redis few commands, those inside of scripts counted.
func TestHeartbeatIsCheap(t *testing.T) {
	t.Parallel()
	srv := startServer(t)
	const hosts = 3
	beaten := announced(t, srv, hosts, HostsOptions{Calm: 100 * time.Millisecond})
	rdb := srv.client(t)
	calls := func() int64 {
		info, err := rdb.Info(t.Context(), "stats").Result()
		must(t, err)
		_, rest, _ := strings.Cut(info, "total_commands_processed:")
		n, _, _ := strings.Cut(rest, "\r")
		return integer(n)
	}
	begin, before := time.Now(), calls()
	beaten(begin.Add(6 * time.Second))
	after := calls()
	took := time.Since(begin).Seconds()
	rate := float64(after-before) / took / hosts
	t.Logf("%.1f commands/s for each host", rate)
	if rate > 5.5 {
		t.Errorf("a heartbeat costs %.1f commands/s", rate)
	}
}

func TestReclaim(t *testing.T) {
	onEach(t, func(t *testing.T, rdb redis.UniversalClient) {
		ctx := t.Context()
		dead, s := NewStore(rdb, Options{}), NewStore(rdb, Options{MaxCrashes: 2})
		h := NewHosts(s, logger(t), HostsOptions{})
		var restart, fail, released, done, crashed Ticket
		restart = create(t, s, Job{Priority: PriorityLow})
		fail = create(t, s, Job{Policy: PolicyFail})
		released, done, crashed = create(t, s, Job{}), create(t, s, Job{Policy: PolicyFail}), create(t, s, Job{})
		for _, k := range []Ticket{restart, fail, crashed} {
			must(t, begin(t, dead, k, "dead").Append(ctx, &Start{}, chunk("so far")))
		}
		must(t, rdb.HSet(ctx, metaKey(crashed.Job), "crashes", 1).Err())
		must(t, rdb.HSet(ctx, metaKey(restart.Job), "due", time.Now().Add(time.Hour).UnixMilli()).Err()) // of a wait before this attempt
		waiting := begin(t, dead, released, "dead")
		waiting.Due = time.Now().Add(time.Hour)
		_, err := waiting.Release(ctx, StateWaiting) // died before it could enqueue
		must(t, err)
		must(t, begin(t, dead, done, "dead").Finish(ctx, &Complete{}))
		must(t, rdb.SAdd(ctx, hostJobsKey("dead"), "odd entry", done.TaskID(), "vanished#1").Err())
		mine := create(t, s, Job{})
		begin(t, s, mine, "dead") // the same host id, a new incarnation: this very store

		refused := errors.New("asynq is away")
		if err := h.Reclaim(ctx, "dead", func(context.Context, Ticket, string, time.Time) error { return refused }); !errors.Is(err, refused) {
			t.Fatal(err)
		}
		var got []string
		for range 2 {
			must(t, h.Reclaim(ctx, "dead", func(_ context.Context, k Ticket, priority string, due time.Time) error {
				got = append(got, k.TaskID()+priority)
				switch {
				case k.Job != released.Job:
					if !due.IsZero() {
						t.Errorf("%s, which ran, is due at %v", k.TaskID(), due)
					}
				case due.Before(waiting.Due) || due.After(waiting.Due.Add(2*time.Millisecond)):
					t.Errorf("due at %v, was to wait until %v", due, waiting.Due)
				}
				return nil
			}))
		}
		want := []string{Ticket{restart.Job, 2}.TaskID() + "low", Ticket{released.Job, 2}.TaskID()}
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Errorf("got %v, want %v", got, want)
		}
		for _, k := range []Ticket{fail, crashed} {
			frames, st := logOf(t, s, k.Job)
			if events(frames) != "start chunk error" || st.State != StateFailed {
				t.Error(events(frames), st.State)
			}
		}
		if left := rdb.SMembers(ctx, hostJobsKey("dead")).Val(); len(left) != 1 || left[0] != mine.TaskID() {
			t.Error(left)
		}
	})
}

func TestModels(t *testing.T) {
	onEach(t, func(t *testing.T, rdb redis.UniversalClient) {
		ctx := t.Context()
		s := NewStore(rdb, Options{})
		look := NewHosts(s, logger(t), HostsOptions{})
		if models, err := look.Models(ctx); err != nil || len(models) != 0 {
			t.Fatal(models, err)
		}
		a, b := NewHosts(s, logger(t), HostsOptions{}), NewHosts(s, logger(t), HostsOptions{})
		stopA := start(t, func(ctx context.Context) error {
			return a.Announce(ctx, HostInfo{ID: "a", Models: []ModelInfo{{Name: "echo", Provider: "echo"}, {Name: "gpt-*", Provider: "openai", Tools: true}}}, nil)
		})
		start(t, func(ctx context.Context) error {
			return b.Announce(ctx, HostInfo{ID: "b", Models: []ModelInfo{{Name: "echo", Provider: "echo"}}}, nil)
		})
		names := func() (out []string) {
			models, err := look.Models(ctx)
			must(t, err)
			for _, m := range models {
				out = append(out, m.Name)
			}
			return out
		}
		eventually(t, "both are known", func() bool {
			hosts, err := look.List(ctx)
			return err == nil && len(hosts) == 2 && hosts[0].ID == "a"
		})
		if got := names(); !slices.Equal(got, []string{"echo", "gpt-*"}) {
			t.Fatal(got)
		}
		b.Update([]ModelInfo{{Name: "new", Provider: "p"}})
		eventually(t, "the update is known", func() bool { return slices.Equal(names(), []string{"echo", "gpt-*", "new"}) })
		stopA()
		if got := names(); !slices.Equal(got, []string{"new"}) {
			t.Fatal(got)
		}
		// Redis forgets everything: the hosts announce themselves again.
		must(t, rdb.Del(ctx, hostsBeatKey, hostsInfoKey).Err())
		eventually(t, "announced again", func() bool { return slices.Equal(names(), []string{"new"}) })
		for _, key := range []string{hostsBeatKey, hostsInfoKey} {
			if rdb.PTTL(ctx, key).Val() <= 0 {
				t.Errorf("%s does not expire", key)
			}
		}
	})
}

// The reply to Begin is lost and nobody asks again: the host takes the job back from itself.
func TestBeginNobodyHeardOf(t *testing.T) {
	onServer(t, func(t *testing.T, rdb redis.UniversalClient) {
		d := &dropReplies{}
		rdb.AddHook(d)
		s := NewStore(rdb, Options{})
		k, held := create(t, s, Job{}), create(t, s, Job{})
		begin(t, s, held, "a")
		d.set(func(cmd redis.Cmder) bool { return cmd.Name() == "evalsha" || cmd.Name() == "eval" })
		if _, err := s.Begin(t.Context(), k, "a"); !Retryable(err) {
			t.Fatal(err)
		}
		d.set(nil)
		h := NewHosts(s, logger(t), HostsOptions{Beat: 5 * time.Millisecond})
		next := make(chan Ticket, 10)
		start(t, func(ctx context.Context) error {
			return h.Announce(ctx, HostInfo{ID: "a"}, func(ctx context.Context, host string) {
				h.Reclaim(ctx, host, func(_ context.Context, k Ticket, _ string, _ time.Time) error { next <- k; return nil })
			})
		})
		take := func(want Ticket) {
			t.Helper()
			select {
			case got := <-next:
				if got != want {
					t.Fatal(got)
				}
			case <-time.After(soon):
				t.Fatal("the job is stuck")
			}
		}
		take(Ticket{k.Job, 2})
		// And again, long after the start.
		d.set(func(cmd redis.Cmder) bool {
			return cmd.Name() == "evalsha" && len(cmd.Args()) > 7 && cmd.Args()[6] == "a"
		})
		if _, err := s.Begin(t.Context(), Ticket{k.Job, 2}, "a"); !Retryable(err) {
			t.Fatal(err)
		}
		d.set(nil)
		take(Ticket{k.Job, 3})
		if len(next) != 0 {
			t.Fatal("a held attempt was reclaimed")
		}
	})
}

// A host that ends with a job in its hands stays listed, so that the others find it dead.
func TestEndWithJobs(t *testing.T) {
	onServer(t, func(t *testing.T, rdb redis.UniversalClient) {
		s := NewStore(rdb, Options{})
		h := NewHosts(s, logger(t), HostsOptions{})
		stop := start(t, func(ctx context.Context) error { return h.Announce(ctx, HostInfo{ID: "a"}, nil) })
		eventually(t, "announced", func() bool { return !h.LastBeat().IsZero() })
		begin(t, s, create(t, s, Job{}), "a")
		stop()
		if n := rdb.ZCard(t.Context(), hostsBeatKey).Val(); n != 1 {
			t.Fatal("the host was forgotten with its job")
		}
	})
}
