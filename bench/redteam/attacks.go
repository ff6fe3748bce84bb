package main

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"time"

	"github.com/sluicehq/sluice/host/sandbox"
	"github.com/sluicehq/sluice/sdk"
)

// attack is one way of doing harm.
type attack struct {
	name          string
	plugin        func(*field) *sandbox.Plugin // nil: busy Go code in the host instead
	model, prompt string
	prepare       func(*field) string                // the prompt, when it has to be found out
	contained     func(text string, err error) error // nil: by the deadline or by an error that is the plugin's
	native        *nativeAttack                      // not nil: one of the native plugin, made once
}

// letters are the attacks of attack.wat, in the order of their letters.
var letters = []struct{ name string }{
	{"infinite loop"}, {"recursion without a loop"}, {"mutual recursion"}, {"endless recursion"}, {"deep stack held in the host"},
	{"bulk fills"}, {"bulk copies"}, {"growing memory"}, {"random flood"}, {"host call flood"},
	{"emit flood"}, {"emit of 1 GiB"}, {"bad pointers"},
}

func attacks() []attack {
	goGuest := func(f *field) *sandbox.Plugin { return f.guest }
	var all []attack
	for i, l := range letters {
		all = append(all, attack{name: l.name, plugin: func(f *field) *sandbox.Plugin { return f.attack }, prompt: "#" + string(rune('a'+i))})
	}
	for _, name := range []string{"giant-line", "giant-blocks"} {
		all = append(all, attack{name: strings.ReplaceAll(name, "-", " ") + " in a loop", plugin: func(f *field) *sandbox.Plugin { return f.giants[name] }})
	}
	for _, a := range [][2]string{
		{"infinite loop in Go", "spin"}, {"memory bomb in Go", "hoard"}, {"1 GiB in a thousand chunks", "gigabyte"},
		{"emit flood in Go", "flood"}, {"sleep past the deadline", "sleep"}, {"forged usage", "usage"},
	} {
		all = append(all, attack{name: a[0], plugin: goGuest, model: a[1]})
	}
	for _, a := range []struct {
		name string
		url  func(*field) string
	}{
		{"origin not listed", func(f *field) string { return "https://evil.example/" }},
		{"127.0.0.1, listed and not allowed", func(f *field) string { return f.canary.URL + "/" }},
		{"169.254.169.254, the same", func(*field) string { return "http://169.254.169.254/latest/meta-data/" }},
		{"name that is 127.0.0.1", func(f *field) string { return strings.Replace(f.canary.URL, "127.0.0.1", loopback, 1) + "/" }},
	} {
		all = append(all, attack{name: a.name, plugin: goGuest, model: "fetch", prepare: a.url, contained: denied})
	}
	all = append(all, attack{name: "name that moves to 169.254.169.254", plugin: goGuest, model: "rebind", contained: denied,
		prepare: func(f *field) string { return strings.Replace(f.upstream.URL, "127.0.0.1", rebinding, 1) + "/close" }})
	all = append(all, attack{name: "redirect to a host not allowed", plugin: goGuest, model: "fetch", contained: refused,
		prepare: func(f *field) string { return f.upstream.URL + "/redirect" }})
	for _, path := range []string{"/echo", "/pieces", "/error"} {
		all = append(all, attack{name: "key from " + path, plugin: goGuest, model: "steal", contained: keyless,
			prepare: func(f *field) string { return f.upstream.URL + path }})
	}
	return all
}

// byPlugin accepts an error that is the plugin's.
func byPlugin(_ string, err error) error {
	if e := sdk.AsError(err); e == nil || e.Fault != sdk.Plugin {
		return fmt.Errorf("ended with %v", err)
	}
	return nil
}

// denied wants the door to have said no.
func denied(text string, err error) error {
	var e *sdk.Error
	if !errors.As(err, &e) || e.Kind != sdk.Denied || e.Code != "egress_refused" {
		return fmt.Errorf("got %q, %v", text, err)
	}
	return nil
}

func refused(text string, err error) error {
	if err == nil {
		return fmt.Errorf("got %q", text)
	}
	return nil
}

// keyless wants the key not to be in what the guest could read, in any of the
// forms in which the upstream sends it.
func keyless(text string, err error) error {
	if text == "" && err == nil {
		return errors.New("read nothing")
	}
	seen := text + fmt.Sprint(err)
	for _, form := range []string{key, base64.StdEncoding.EncodeToString([]byte(key)), hex.EncodeToString([]byte(key))} {
		if strings.Contains(seen, form) {
			return fmt.Errorf("read the key as %q", form)
		}
	}
	return nil
}

// tooLong is what an attack that its deadline ended fails with.
var tooLong = &sdk.Error{Kind: sdk.Internal, Fault: sdk.Plugin, Message: "took longer than its limit"}

// stuck is how long after its deadline an attacker is given up.
const stuck = 15 * time.Second

// outcome is what one attack did.
type outcome struct {
	ended     string        // how the host ended it
	late      time.Duration // after the deadline, when the deadline ended it; else below zero
	runs      int
	escape    error // why it isn't contained; nil when it is
	unable    bool  // to refuse it, on this machine
	collector collector
	delays    delays
}

// try makes an attack, on every processor at once and again and again until the
// deadline has passed, beside the neighbours. A nil attack is none.
func (f *field) try(ctx context.Context, o options, a *attack) (outcome, error) {
	out := outcome{late: -1}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	collected := make(chan collector, 1)
	gc, stopGC := context.WithCancel(ctx)
	defer stopGC()
	go func() { collected <- collect(gc) }()
	var failed error
	felt := make(chan struct{})
	go func() {
		defer close(felt)
		out.delays, failed = stream(ctx, f, o, o.deadline)
	}()
	hits := f.hits.Load()
	if a != nil {
		attackers := runtime.GOMAXPROCS(0)
		if a.native != nil {
			attackers = 1
		}
		results := make(chan outcome, attackers)
		for range cap(results) {
			go func() { results <- f.attacker(ctx, o, *a) }()
		}
		for range cap(results) {
			select {
			case r := <-results:
				out.ended, out.late, out.runs = r.ended, max(out.late, r.late), out.runs+r.runs
				out.escape, out.unable = errors.Join(out.escape, r.escape), out.unable || r.unable
			case <-time.After(o.deadline + stuck):
				return out, fmt.Errorf("%s: still running %v after its deadline", a.name, stuck)
			}
		}
	}
	<-felt
	stopGC()
	out.collector = <-collected
	if failed != nil {
		out.escape = errors.Join(out.escape, failed)
	}
	if n := f.hits.Load() - hits; n > 0 {
		out.escape = errors.Join(out.escape, fmt.Errorf("%d requests arrived where none may", n))
	}
	return out, ctx.Err()
}

func (f *field) attacker(ctx context.Context, o options, a attack) outcome {
	if a.native != nil {
		return f.nativeAttacker(ctx, o, a.native)
	}
	r := outcome{late: -1}
	ctx, cancel := context.WithTimeoutCause(ctx, o.deadline, tooLong)
	defer cancel()
	end, _ := ctx.Deadline()
	prompt, contained := a.prompt, a.contained
	if a.prepare != nil {
		prompt = a.prepare(f)
	}
	if contained == nil {
		contained = byPlugin
	}
	if a.plugin == nil {
		for ctx.Err() == nil {
			r.runs++
		}
		return r
	}
	p := a.plugin(f).Provider()
	for {
		var text strings.Builder
		err := p.Generate(ctx, ask(a.model, prompt), func(c sdk.Chunk) error {
			if t, ok := c.(sdk.Text); ok && text.Len() < 1<<20 {
				text.WriteString(string(t))
			}
			if _, ok := c.(sdk.Usage); ok {
				text.WriteString(fmt.Sprint(c))
			}
			return nil
		})
		r.runs++
		if ctx.Err() != nil {
			if r.late = time.Since(end); r.ended == "" {
				r.ended = "by the deadline"
			}
			return r
		}
		if r.escape == nil {
			r.escape = contained(text.String(), err)
		}
		r.ended = "answered, with the key masked"
		if e := sdk.AsError(err); e != nil {
			r.ended = fmt.Sprintf("%s, %s: %.50s", e.Kind, e.Fault, strings.TrimPrefix(e.Message, "plugin "))
		}
	}
}

// attackAll makes every attack, prints what came of it, and counts those that
// weren't contained.
func attackAll(ctx context.Context, f *field, o options) (escaped int, err error) {
	t := newTable(o)
	defer t.flush()
	// What the machine does by itself: idle, and with the host's own code at
	// work on every CPU.
	calm := func() error {
		for _, a := range []*attack{nil, {name: "(busy Go code)"}} {
			out, err := f.try(ctx, o, a)
			if err != nil {
				return err
			}
			t.calm(a, out)
		}
		return nil
	}
	if err := calm(); err != nil {
		return 0, err
	}
	for _, a := range append(attacks(), f.natives()...) {
		if !strings.Contains(a.name, o.only) {
			continue
		}
		out, err := f.try(ctx, o, &a)
		if err != nil {
			return escaped, err
		}
		if out.escape != nil {
			escaped++
		}
		t.attack(&a, out)
	}
	for name, bin := range strangers() {
		if strings.Contains(name, o.only) {
			_, err := f.load(ctx, "stranger", bin)
			if err == nil {
				escaped++
			}
			t.refused(name, err)
		}
	}
	return escaped, calm()
}

// strangers are modules for another version of the ABI.
func strangers() map[string][]byte {
	other := func(old, with string) []byte { return []byte(strings.Replace(string(attackModule), old, with, 1)) }
	return map[string][]byte{
		"ABI of a later version":  other("\x41\x80\x80\x04\x0b", "\x41\x80\x80\x08\x0b"),
		"imports of a later host": []byte(strings.ReplaceAll(string(attackModule), "sluice_v1", "sluice_v9")),
	}
}
