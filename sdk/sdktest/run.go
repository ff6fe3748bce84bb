package sdktest

import (
	"context"
	"errors"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/sluicehq/sluice/sdk"
)

// patience is how long anything may take on a machine that has other things to do.
var patience = 30 * time.Second

var errEnough = errors.New("the receiver has enough")

// allAtOnce runs every case several times concurrently: none may see anything of another.
func allAtOnce(ctx context.Context, t Reporter, p sdk.Provider, cases []Case) {
	var wg sync.WaitGroup
	for range 4 {
		for _, c := range cases {
			wg.Go(func() { c.Check(t, c.run(ctx, p)) })
		}
	}
	wg.Wait()
}

// slowReceiver lets others run between chunks: all must come, in order.
func slowReceiver(ctx context.Context, t Reporter, p sdk.Provider, c Case, varies bool) {
	want := c.run(ctx, p)
	var got Transcript
	got.Err = p.Generate(ctx, c.Request, func(ch sdk.Chunk) error {
		for range 100 {
			runtime.Gosched()
		}
		got.Chunks = append(got.Chunks, ch)
		return nil
	})
	if !varies {
		c.Chunks, c.Text = want.Chunks, want.Text()
	}
	c.Check(t, got)
}

// receiverFails wants emit's error back, and no further chunk.
func receiverFails(ctx context.Context, t Reporter, p sdk.Provider, o Options, req *sdk.Request) {
	before := settled(o)
	n := 0
	err := p.Generate(ctx, req, func(sdk.Chunk) error {
		n++
		return errEnough
	})
	if !errors.Is(err, errEnough) {
		t.Errorf("Generate returned %v, want the error of emit", err)
	}
	if n != 1 {
		t.Errorf("emit was called %d times, want no call after it failed", n)
	}
	upstreamClosed(t, o, before)
}

func cancelledBefore(ctx context.Context, t Reporter, p sdk.Provider, req *sdk.Request) {
	ctx, cancel := context.WithCancel(ctx)
	cancel()
	tr := Record(ctx, p, req)
	wantCancelled(t, tr.Err)
}

func cancelledAt(ctx context.Context, t Reporter, p sdk.Provider, o Options, chunk int) {
	before := settled(o)
	ctx, cancel := context.WithCancel(ctx)
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
func cancelledBlocked(ctx context.Context, t Reporter, p sdk.Provider, o Options) {
	before := settled(o)
	ctx, cancel := context.WithCancel(ctx)
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

func cancelledSilent(ctx context.Context, t Reporter, p sdk.Provider, o Options) {
	before := settled(o)
	ctx, cancel := context.WithCancel(ctx)
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
func limitReached(ctx context.Context, t Reporter, p sdk.Provider, o Options) {
	before := settled(o)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	limit := &sdk.Error{Kind: sdk.Unavailable, Fault: sdk.Upstream, Message: "took too long"}
	err := p.Generate(ctx, o.Long, func(sdk.Chunk) error {
		cancel(limit)
		return nil
	})
	if e := sdk.AsError(err); e == nil || e.Kind != sdk.Cancelled && e.Kind != sdk.Unavailable {
		t.Errorf("error is %v, want the limit or a cancellation", err)
	}
	upstreamClosed(t, o, before)
}

func wantCancelled(t Reporter, err error) {
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

// settled is how many requests the upstream has open when a check begins. That an answer is over may
// reach the upstream after the provider has returned, so those of earlier checks may still end; the ones
// that don't soon are left to stay.
func settled(o Options) int {
	await(patience/10, func() bool { return open(o) <= o.idle })
	return open(o)
}

func upstreamClosed(t Reporter, o Options, before int) {
	t.Helper()
	if o.Upstream != nil {
		eventually(t, "the upstream's connection is closed", func() bool { return o.Upstream() <= before })
	}
}

func abilities(ctx context.Context, t Reporter, p sdk.Provider, o Options, req *sdk.Request) {
	if p.ListModels != nil && o.lists {
		if models, err := p.ListModels(ctx, req.Settings); err != nil || len(models) == 0 {
			t.Errorf("ListModels = %v, %v; want some", models, err)
		}
	}
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

func eventually(t Reporter, what string, ok func() bool) {
	t.Helper()
	if !await(patience, ok) {
		buf := make([]byte, 1<<20)
		t.Errorf("it is still not so that %s\n%s", what, buf[:runtime.Stack(buf, true)])
	}
}

// await waits until something is so, but no longer than most.
func await(most time.Duration, ok func() bool) bool {
	end := time.NewTimer(most)
	defer end.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-end.C:
			return false
		case <-tick.C:
		}
	}
	return true
}
