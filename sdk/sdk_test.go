//go:build !wasip1

package sdk

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestModelMatches(t *testing.T) {
	for _, c := range []struct {
		glob, name string
		want       bool
	}{
		{"gpt-4", "gpt-4", true}, {"gpt-4", "gpt-4o", false}, {"gpt-*", "gpt-4o", true}, {"gpt-*", "gpt-", true}, {"gpt-*", "xgpt-4", false},
		{"*", "", true}, {"*", "any/thing:x", true}, {"*-mini", "gpt-mini", true}, {"*-mini", "gpt-mini-2", false}, {"a*b*c", "aXbYc", true},
		{"a*b*c", "abc", true}, {"a*b*c", "acb", false}, {"a*b*c", "abcbc", true}, {"a**c", "abc", true}, {"a*a", "a", false}, {"", "", true}, {"", "x", false},
	} {
		if got := (Model{Name: c.glob}).Matches(c.name); got != c.want {
			t.Errorf("%q matches %q is %v, want %v", c.glob, c.name, got, c.want)
		}
	}
	p := Provider{Models: []Model{{Name: "a*", Tools: true}, {Name: "ab"}}}
	if m, ok := p.Model("ab"); !ok || m.Tools {
		t.Errorf("Model(ab) = %v, %v; want the equal name before the glob", m, ok)
	}
	if m, ok := p.Model("ac"); !ok || !m.Tools {
		t.Errorf("Model(ac) = %v, %v; want the glob", m, ok)
	}
	if _, ok := p.Model("b"); ok {
		t.Error("Model(b) was found")
	}
	for name, want := range map[string]Model{"ac": {Name: "ac", Tools: true}, "ab": {Name: "ab"}, "b": {Name: "b"}} {
		if m := ModelNamed(p.Models, name); m != want {
			t.Errorf("ModelNamed(%s) = %+v", name, m)
		}
	}
}

func TestSettings(t *testing.T) {
	s := Settings(`{"s":"x","i":3,"f":1.5,"b":true,"d":"1m30s","null":null,"wrong":[]}`)
	for name, ok := range map[string]bool{
		"string": s.String("s", "") == "x", "int": s.Int("i", 0) == 3, "float": s.Float("f", 0) == 1.5, "bool": s.Bool("b", false),
		"duration": s.Duration("d", 0) == 90*time.Second, "absent": s.String("none", "def") == "def", "null": s.Int("null", 7) == 7,
		"wrong type": s.Int("wrong", 7) == 7, "half right": s.Int("f", 7) == 7, "no duration": s.Duration("s", time.Second) == time.Second,
		"empty": Settings(nil).Int("i", 7) == 7, "malformed": Settings(`{"i":`).Int("i", 7) == 7,
	} {
		if !ok {
			t.Errorf("%s: not what was set", name)
		}
	}
	var v struct{ I int }
	if err := s.Decode(&v); err != nil || v.I != 3 {
		t.Errorf("decoded %+v, %v", v, err)
	}
	wantError(t, "malformed settings", Settings(`[]`).Decode(&v), Invalid, Host)
}

func TestRequestHelpers(t *testing.T) {
	req := &Request{
		Messages: []Message{
			{Role: RoleUser, Parts: []Part{TextPart("first")}},
			{Role: RoleUser, Parts: []Part{TextPart("a"), ImagePart{URL: "u"}, TextPart("b")}},
			{Role: RoleAssistant, Parts: []Part{TextPart("c")}},
		},
		Options: map[string]json.RawMessage{"n": json.RawMessage(`3`)},
	}
	if got := req.Prompt(); got != "ab" {
		t.Errorf("prompt is %q, want the text of the last user message", got)
	}
	if got := (&Request{}).Prompt() + (Message{Parts: []Part{ImagePart{}}}).Text(); got != "" {
		t.Errorf("nothing said is %q", got)
	}
	var n int
	if ok, err := req.Option("n", &n); !ok || err != nil || n != 3 {
		t.Errorf("option is %v, %v, %d", ok, err, n)
	}
	if ok, err := req.Option("m", &n); ok || err != nil {
		t.Errorf("absent option is %v, %v", ok, err)
	}
	var s string
	_, err := req.Option("n", &s)
	wantError(t, "option of another type", err, Invalid, Caller)
}

func TestErrors(t *testing.T) {
	cause := errors.New("cause")
	e := Errorf(Limited, "calling x: %w", cause)
	if e.Error() != "calling x: cause" || !errors.Is(e, cause) || e.Fault != Upstream || !e.Retryable() {
		t.Errorf("Errorf made %#v", e)
	}
	if AsError(e) != e {
		t.Error("AsError copied an *Error")
	}
	wrapped := AsError(fmt.Errorf("answering: %w", e))
	if wrapped.Message != "answering: calling x: cause" || wrapped.Kind != Limited || !errors.Is(wrapped, cause) {
		t.Errorf("wrapped is %#v", wrapped)
	}
	if AsError(nil) != nil {
		t.Error("AsError(nil) is not nil")
	}
	for _, c := range []struct {
		err   error
		kind  Kind
		fault Fault
	}{
		{context.Canceled, Cancelled, Caller}, {fmt.Errorf("x: %w", context.DeadlineExceeded), Unavailable, Upstream}, {cause, Internal, Plugin},
		{Errorf(Denied, "x"), Denied, Host}, {Errorf(Refused, "x"), Refused, Caller}, {(*Error)(nil), Internal, Plugin},
	} {
		if e := AsError(c.err); e.Kind != c.kind || e.Fault != c.fault {
			t.Errorf("AsError(%T) is %s of %s, want %s of %s", c.err, e.Kind, e.Fault, c.kind, c.fault)
		}
	}
	if !errors.Is(Errorf(Cancelled, "x"), context.Canceled) || errors.Is(Errorf(Invalid, "x"), context.Canceled) {
		t.Error("Cancelled and context.Canceled don't match, or others do")
	}
	if got := (&Error{Kind: Limited}).Error(); got != "limited" {
		t.Errorf("an error without a message says %q", got)
	}
}

func TestTry(t *testing.T) {
	p := &Provider{
		Name: "p", Version: "1", Models: []Model{{Name: "m"}},
		Generate: func(_ context.Context, req *Request, emit Emit) error {
			switch req.Prompt() {
			case "fail":
				return Errorf(Limited, "slow down")
			case "panic":
				panic("oh")
			}
			var o string
			if _, err := req.Option("o", &o); err != nil {
				return err
			}
			if err := emit(Text(req.Model + " " + req.Messages[0].Text() + " " + req.Prompt() + " " + o + " " + req.Settings.String("s", ""))); err != nil {
				return err
			}
			return emit(Finish{Reason: FinishStop})
		},
	}
	for _, c := range []struct {
		args             []string
		code             int
		stdout, inStderr string
	}{
		{[]string{"-model", "x", "-system", "sys", "-option", "o=opt", "-settings", `{"s":"set"}`, "hello", "there"}, 0, "x sys hello there opt set\n", "\n[finish {Reason:stop Raw:}]"},
		{[]string{"fail"}, 1, "\n", "limited: slow down (fault: upstream)"},
		{[]string{"panic"}, 1, "\n", "internal: provider panicked: oh (fault: plugin)"},
		{nil, 2, "", "p 1 is a Sluice provider"},
		{[]string{"-settings", "{", "x"}, 2, "", "invalid value"},
		{[]string{"-option", "x", "x"}, 2, "", "want name=value"},
	} {
		var stdout, stderr bytes.Buffer
		code := try(t.Context(), p, c.args, &stdout, &stderr)
		if code != c.code || stdout.String() != c.stdout || !strings.Contains(stderr.String(), c.inStderr) {
			t.Errorf("%v: code %d, stdout %q, stderr %q", c.args, code, stdout.String(), stderr.String())
		}
	}
}

func TestRegister(t *testing.T) {
	defer func() { registered = Provider{} }()
	mustPanic := func(what string, p Provider) {
		t.Helper()
		defer func() {
			if recover() == nil {
				t.Errorf("%s: no panic", what)
			}
		}()
		Register(p)
	}
	p := Provider{Generate: func(context.Context, *Request, Emit) error { return nil }}
	mustPanic("without Generate", Provider{})
	Register(p)
	mustPanic("twice", p)
}

// TestGuestBuild: a sandboxed plugin has the standard library only, and not the parts of it that
// weigh megabytes.
func TestGuestBuild(t *testing.T) {
	cmd := exec.Command("go", "list", "-deps", ".")
	cmd.Env = append(os.Environ(), "GOOS=wasip1", "GOARCH=wasm")
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	deps := strings.Fields(string(out))
	for _, dep := range deps {
		first, _, _ := strings.Cut(dep, "/")
		if strings.Contains(first, ".") && dep != "github.com/sluicehq/sluice/sdk" {
			t.Errorf("the guest build imports %s", dep)
		}
	}
	for _, heavy := range []string{"net", "net/http", "crypto/tls", "os/exec"} {
		if slices.Contains(deps, heavy) {
			t.Errorf("the guest build imports %s", heavy)
		}
	}
}
