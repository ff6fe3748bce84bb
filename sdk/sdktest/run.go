package sdktest

import (
	"context"
	"errors"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sluicehq/sluice/sdk"
)

// patience is how long anything may take on a machine that has other things to do.
const patience = 30 * time.Second

var errEnough = errors.New("the receiver has enough")

// Run runs the table against p.
func Run(t *testing.T, p sdk.Provider, o Options) {
	before := runtime.NumGoroutine()
	plain := o.Plain
	if plain.Name == "" {
		plain.Name = "plain"
	}
	cases := append([]Case{plain}, o.Cases...)
	for _, c := range cases {
		t.Run(c.Name, func(t *testing.T) {
			c.Check(t, c.run(bounded(t), p))
		})
	}
	t.Run("same answer twice", func(t *testing.T) {
		first := plain.run(bounded(t), p)
		again := plain
		again.Chunks, again.Text = first.Chunks, first.Text()
		again.Check(t, plain.run(bounded(t), p))
	})
	t.Run("all at once", func(t *testing.T) { allAtOnce(t, p, cases) })
	t.Run("slow receiver", func(t *testing.T) { slowReceiver(t, p, plain) })
	t.Run("receiver fails", func(t *testing.T) { receiverFails(t, p, plain.Request) })
	t.Run("cancelled before", func(t *testing.T) { cancelledBefore(t, p, plain.Request) })
	if o.Long != nil {
		t.Run("cancelled at first chunk", func(t *testing.T) { cancelledAt(t, p, o, 1) })
		t.Run("cancelled midway", func(t *testing.T) { cancelledAt(t, p, o, 20) })
		t.Run("receiver fails midway", func(t *testing.T) { receiverFails(t, p, o.Long) })
		t.Run("cancelled while the receiver blocks", func(t *testing.T) { cancelledBlocked(t, p, o) })
		t.Run("limit reached", func(t *testing.T) { limitReached(t, p, o.Long) })
	}
	if o.Silent != nil {
		t.Run("cancelled in silence", func(t *testing.T) { cancelledSilent(t, p, o) })
	}
	t.Run("optional abilities", func(t *testing.T) { abilities(t, p, plain.Request) })
	if !o.KeepsGoroutines && !t.Failed() {
		eventually(t, "all goroutines have ended", func() bool { return runtime.NumGoroutine() <= before })
	}
}

func bounded(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

// allAtOnce runs every case several times concurrently: none may see anything of another.
func allAtOnce(t *testing.T, p sdk.Provider, cases []Case) {
	ctx := bounded(t)
	var wg sync.WaitGroup
	for range 4 {
		for _, c := range cases {
			wg.Go(func() { c.Check(t, c.run(ctx, p)) })
		}
	}
	wg.Wait()
}

// slowReceiver lets others run between chunks: all must come, in order.
func slowReceiver(t *testing.T, p sdk.Provider, c Case) {
	want := c.run(bounded(t), p)
	var got Transcript
	got.Err = p.Generate(bounded(t), c.Request, func(ch sdk.Chunk) error {
		for range 100 {
			runtime.Gosched()
		}
		got.Chunks = append(got.Chunks, ch)
		return nil
	})
	c.Chunks, c.Text = want.Chunks, want.Text()
	c.Check(t, got)
}

// receiverFails wants emit's error back, and no further chunk.
func receiverFails(t *testing.T, p sdk.Provider, req *sdk.Request) {
	n := 0
	err := p.Generate(bounded(t), req, func(sdk.Chunk) error {
		n++
		return errEnough
	})
	if !errors.Is(err, errEnough) {
		t.Errorf("Generate returned %v, want the error of emit", err)
	}
	if n != 1 {
		t.Errorf("emit was called %d times, want no call after it failed", n)
	}
}

func cancelledBefore(t *testing.T, p sdk.Provider, req *sdk.Request) {
	ctx, cancel := context.WithCancel(bounded(t))
	cancel()
	tr := Record(ctx, p, req)
	wantCancelled(t, tr.Err)
}

func cancelledAt(t *testing.T, p sdk.Provider, o Options, chunk int) {
	before := open(o)
	ctx, cancel := context.WithCancel(bounded(t))
	defer cancel()
	n := 0
	err := p.Generate(ctx, o.Long, func(sdk.Chunk) error {
		if n++; n == chunk {
			cancel()
		}
		return nil
	})
	wantCancelled(t, err)
	upstreamClosed(t, o, before)
}

// cancelledBlocked cancels while emit holds the provider back.
func cancelledBlocked(t *testing.T, p sdk.Provider, o Options) {
	before := open(o)
	ctx, cancel := context.WithCancel(bounded(t))
	defer cancel()
	blocked := make(chan struct{})
	var once sync.Once
	done := make(chan error, 1)
	go func() {
		done <- p.Generate(ctx, o.Long, func(sdk.Chunk) error {
			once.Do(func() { close(blocked) })
			<-ctx.Done()
			return ctx.Err()
		})
	}()
	<-blocked
	cancel()
	wantCancelled(t, <-done)
	upstreamClosed(t, o, before)
}

func cancelledSilent(t *testing.T, p sdk.Provider, o Options) {
	before := open(o)
	ctx, cancel := context.WithCancel(bounded(t))
	defer cancel()
	done := make(chan Transcript, 1)
	go func() { done <- Record(ctx, p, o.Silent) }()
	if o.Upstream != nil {
		eventually(t, "the upstream has the request", func() bool { return open(o) > before })
	}
	cancel()
	tr := <-done
	wantCancelled(t, tr.Err)
	if text := tr.Text(); text != "" {
		t.Errorf("text is %q, want none", text)
	}
	upstreamClosed(t, o, before)
}

// limitReached is a cancellation with a cause, as a host's time limits are.
func limitReached(t *testing.T, p sdk.Provider, req *sdk.Request) {
	ctx, cancel := context.WithCancelCause(bounded(t))
	defer cancel(nil)
	limit := &sdk.Error{Kind: sdk.Unavailable, Fault: sdk.Upstream, Message: "took too long"}
	err := p.Generate(ctx, req, func(sdk.Chunk) error {
		cancel(limit)
		return nil
	})
	if e := sdk.AsError(err); e == nil || e.Kind != sdk.Cancelled && e.Kind != sdk.Unavailable {
		t.Errorf("error is %v, want the limit or a cancellation", err)
	}
}

func wantCancelled(t *testing.T, err error) {
	t.Helper()
	if e := sdk.AsError(err); e == nil || e.Kind != sdk.Cancelled || !errors.Is(err, context.Canceled) {
		t.Errorf("error is %v, want one that is cancelled and context.Canceled", err)
	}
}

func open(o Options) int {
	if o.Upstream == nil {
		return 0
	}
	return o.Upstream()
}

func upstreamClosed(t *testing.T, o Options, before int) {
	t.Helper()
	if o.Upstream != nil {
		eventually(t, "the upstream's connection is closed", func() bool { return o.Upstream() <= before })
	}
}

func abilities(t *testing.T, p sdk.Provider, req *sdk.Request) {
	ctx := bounded(t)
	if p.CountTokens != nil {
		n, err := p.CountTokens(ctx, req)
		if err != nil || n <= 0 {
			t.Errorf("CountTokens = %d, %v; want a count", n, err)
		}
	}
	if p.Check != nil {
		if err := p.Check(ctx, req.Settings); err != nil {
			t.Errorf("Check: %v", err)
		}
	}
	for _, m := range p.Models {
		if m.Name == "" || strings.TrimSpace(m.Name) != m.Name {
			t.Errorf("a model is called %q", m.Name)
		}
	}
	if _, ok := p.Model(req.Model); !ok {
		t.Errorf("no entry of Models serves %q", req.Model)
	}
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	end := time.NewTimer(patience)
	defer end.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-end.C:
			buf := make([]byte, 1<<20)
			t.Errorf("it is still not so that %s\n%s", what, buf[:runtime.Stack(buf, true)])
			return
		case <-tick.C:
		}
	}
}
