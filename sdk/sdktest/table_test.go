package sdktest

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/sluicehq/sluice/sdk"
)

// TestCheck: outside of a test the table says the same, and a provider that errs in one thing
// passes the others.
func TestCheck(t *testing.T) {
	req := &sdk.Request{JobID: "1", Attempt: 1, Model: "m", Messages: []sdk.Message{{Role: sdk.RoleUser, Parts: []sdk.Part{sdk.TextPart("hi")}}}}
	answers := 0
	good := sdk.Provider{
		Name: "p", Models: []sdk.Model{{Name: "m"}},
		Generate: func(ctx context.Context, _ *sdk.Request, emit sdk.Emit) error {
			for _, c := range []sdk.Chunk{sdk.Text("hi"), sdk.Finish{Reason: sdk.FinishStop}} {
				if ctx.Err() != nil {
					return ctx.Err()
				}
				if err := emit(c); err != nil {
					return err
				}
			}
			return nil
		},
	}
	deaf := good
	deaf.Generate = func(_ context.Context, _ *sdk.Request, emit sdk.Emit) error {
		_ = emit(sdk.Text("hi"))
		_ = emit(sdk.Finish{Reason: sdk.FinishStop})
		return nil
	}
	fickle := good
	fickle.Generate = func(ctx context.Context, req *sdk.Request, emit sdk.Emit) error {
		answers++
		if err := emit(sdk.Text(strings.Repeat("x", answers))); err != nil {
			return err
		}
		return good.Generate(ctx, req, emit)
	}
	panics := good
	panics.CountTokens = func(context.Context, *sdk.Request) (int, error) { panic("out of luck") }
	for _, test := range []struct {
		name   string
		p      sdk.Provider
		o      Options
		failed []string
	}{
		{"good", good, Options{}, nil},
		{"deaf", deaf, Options{}, []string{"receiver fails", "cancelled before"}},
		{"panics", panics, Options{}, []string{"optional abilities"}},
	} {
		test.o.Plain.Request = req
		var failed []string
		for _, r := range Check(t.Context(), test.p, test.o) {
			if len(r.Problems) > 0 {
				failed = append(failed, r.Name)
			}
		}
		if strings.Join(failed, "; ") != strings.Join(test.failed, "; ") {
			t.Errorf("%s fails in %q, want %q", test.name, failed, test.failed)
		}
	}
	over, cancel := context.WithCancel(t.Context())
	cancel()
	if r := Check(over, good, Options{Plain: Case{Request: req}}); len(r) > 0 {
		t.Errorf("%d checks were made although the context had ended", len(r))
	}
	o := Options{Plain: Case{Request: req}}
	var same []string
	for _, s := range steps(fickle, o) {
		if s.name == "same answer twice" {
			same = s.check(t.Context()).Problems
		}
	}
	if len(same) == 0 {
		t.Error("an answer that varies was taken for the same")
	}
	o.Varies = true
	for _, s := range steps(fickle, o) {
		if s.name == "same answer twice" {
			t.Error("answers that may vary are compared")
		}
	}
}

// TestLateEnds: an answer that is over for the provider may not be for its upstream yet. That is not
// taken for one that the next check has asked for.
func TestLateEnds(t *testing.T) {
	var count atomic.Int64
	count.Store(1) // of an earlier check
	asked := make(chan struct{})
	p := sdk.Provider{Generate: func(ctx context.Context, _ *sdk.Request, _ sdk.Emit) error {
		count.Add(1)
		defer count.Add(-1)
		close(asked)
		<-ctx.Done()
		return ctx.Err()
	}}
	looks := 0
	o := Options{Silent: &sdk.Request{}, Upstream: func() int {
		if looks++; looks == 2 {
			count.Add(-1) // it ends after the first look
		}
		return int(count.Load())
	}}
	var c collector
	cancelledSilent(t.Context(), &c, p, o)
	<-asked
	if len(c.problems) > 0 {
		t.Errorf("reported %.300q", c.problems)
	}
}
