package main

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"

	_ "embed"

	"github.com/sluicehq/sluice/host/egress"
	"github.com/sluicehq/sluice/host/manifest"
	"github.com/sluicehq/sluice/host/native/box"
	"github.com/sluicehq/sluice/host/sandbox"
	"github.com/sluicehq/sluice/sdk"
)

//go:embed attack.wasm
var attackModule []byte

// key is what must not be seen.
const key = "sk-redteam-0123456789abcdef"

// rebinding is a name that the operator allows to be private, because it is the
// upstream's, and that then moves to where clouds keep their credentials.
const rebinding = "moves.example"

// loopback is a name at 127.0.0.1 that the operator doesn't allow.
const loopback = "home.example"

// field is where the exercise takes place.
type field struct {
	dir      string
	log      *slog.Logger
	rt       *sandbox.Runtime
	closers  []func() error
	upstream *httptest.Server // the only place a guest may go
	canary   *httptest.Server // nothing may arrive here
	hits     atomic.Int64     // that did
	resolved atomic.Int64

	guest  *sandbox.Plugin // neighbours, and attackers written in Go
	attack *sandbox.Plugin // attack.wat
	giants map[string]*sandbox.Plugin

	intruder *manifest.Manifest // a native plugin, started for each of its attacks
	box      *box.Level         // it runs in; nil is the tightest there is
}

func newField(ctx context.Context) (_ *field, err error) {
	f := &field{log: slog.New(slog.DiscardHandler), giants: map[string]*sandbox.Plugin{}}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.close())
		}
	}()
	if f.dir, err = os.MkdirTemp("", "sl-red-*"); err != nil {
		return nil, err
	}
	f.canary = httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { f.hits.Add(1) }))
	f.upstream = httptest.NewServer(http.HandlerFunc(f.serve))
	if f.rt, err = sandbox.NewRuntime(ctx, sandbox.Options{CacheDir: f.dir + "/cache", Log: f.log}); err != nil {
		return nil, err
	}
	if f.guest, err = f.loadGuest(ctx); err != nil {
		return nil, err
	}
	if f.attack, err = f.load(ctx, "attack", attackModule); err != nil {
		return nil, err
	}
	for name, bin := range giants() {
		if f.giants[name], err = f.load(ctx, name, bin); err != nil {
			return nil, err
		}
	}
	return f, f.prepareNative(ctx)
}

func (f *field) close() error {
	var errs []error
	for _, c := range f.closers {
		errs = append(errs, c())
	}
	if f.rt != nil {
		errs = append(errs, f.rt.Close(context.Background()))
	}
	for _, s := range []*httptest.Server{f.upstream, f.canary} {
		if s != nil {
			s.Close()
		}
	}
	return errors.Join(append(errs, os.RemoveAll(f.dir))...)
}

// serve is an upstream that plays along with whoever wants to read the key.
func (f *field) serve(w http.ResponseWriter, r *http.Request) {
	sent := r.Header.Get("Authorization")
	switch r.URL.Path {
	case "/close":
		w.Header().Set("Connection", "close")
	case "/redirect":
		http.Redirect(w, r, f.canary.URL, http.StatusFound)
	case "/echo":
		w.Header().Set("You-Sent", sent)
		fmt.Fprintf(w, "%s %s %s %s", sent, base64.StdEncoding.EncodeToString([]byte(key)), hex.EncodeToString([]byte(key)), url.QueryEscape(key))
	case "/pieces":
		for i := range sent {
			fmt.Fprint(w, sent[i:i+1])
			http.NewResponseController(w).Flush()
		}
	case "/error":
		w.WriteHeader(http.StatusUnauthorized)
		fmt.Fprintf(w, `{"error":{"message":"Incorrect API key provided: %s"}}`, sent)
	}
}

// LookupNetIP resolves a name to loopback, the rebinding one only at first.
func (f *field) LookupNetIP(_ context.Context, _, host string) ([]netip.Addr, error) {
	if host != rebinding || f.resolved.Add(1) == 1 {
		return []netip.Addr{netip.MustParseAddr("127.0.0.1")}, nil
	}
	return []netip.Addr{netip.MustParseAddr("169.254.169.254")}, nil
}

// here is this package's folder.
func here() string {
	_, file, _, _ := runtime.Caller(0)
	return filepath.Dir(file)
}

func (f *field) loadGuest(ctx context.Context) (*sandbox.Plugin, error) {
	m, err := manifest.Build(ctx, filepath.Join(here(), "guest", manifest.File), f.dir+"/guest")
	if err != nil {
		return nil, err
	}
	port := func(s *httptest.Server) int { return s.Listener.Addr().(*net.TCPAddr).Port }
	m, err = m.Narrow(manifest.Operator{
		Settings: map[string]any{
			"upstream": f.upstream.URL, "metadata": "http://169.254.169.254",
			"loopback": fmt.Sprintf("http://%s:%d", loopback, port(f.canary)), "rebinding": fmt.Sprintf("http://%s:%d", rebinding, port(f.upstream)),
			"address": f.canary.URL,
		},
		AllowPrivate: []string{strings.TrimPrefix(f.upstream.URL, "http://"), rebinding},
	})
	if err != nil {
		return nil, err
	}
	return f.start(ctx, m)
}

// load makes a plugin of a module.
func (f *field) load(ctx context.Context, name string, bin []byte) (*sandbox.Plugin, error) {
	src := filepath.Join(f.dir, "src-"+name)
	text := "name: " + name + "\nversion: 1.0.0\nprotocol: 1\nruntime: wasm\nartifact: a.wasm\nmodels: [{name: \"*\"}]\nlimits: {memory: 64MiB, output: 16MiB, cpu: 10s}\n"
	if err := os.MkdirAll(src, 0o700); err != nil {
		return nil, err
	}
	for file, b := range map[string][]byte{manifest.File: []byte(text), "a.wasm": bin} {
		if err := os.WriteFile(filepath.Join(src, file), b, 0o600); err != nil {
			return nil, err
		}
	}
	m, err := manifest.Build(ctx, filepath.Join(src, manifest.File), src+"-built")
	if err != nil {
		return nil, err
	}
	return f.start(ctx, m)
}

func (f *field) start(ctx context.Context, m *manifest.Manifest) (*sandbox.Plugin, error) {
	gate, err := egress.New(m, egress.Options{Log: f.log, Resolver: f, LookupEnv: func(string) (string, bool) { return key, true }})
	if err != nil {
		return nil, err
	}
	p, err := f.rt.Load(ctx, m, gate)
	if err != nil {
		gate.Close()
		return nil, err
	}
	f.closers = append(f.closers, func() error {
		defer gate.Close()
		return p.Close(context.Background())
	})
	return p, nil
}

func ask(model, prompt string) *sdk.Request {
	return &sdk.Request{JobID: "exercise", Attempt: 1, Model: model, Messages: []sdk.Message{{Role: sdk.RoleUser, Parts: []sdk.Part{sdk.TextPart(prompt)}}}}
}
