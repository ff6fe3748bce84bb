package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sluicehq/sluice/host/egress"
	"github.com/sluicehq/sluice/host/manifest"
	"github.com/sluicehq/sluice/host/native"
	"github.com/sluicehq/sluice/host/sandbox"
	"github.com/sluicehq/sluice/sdk"
)

const openaiKey = "sk-only-the-host-has-this"

// openaiArtifact builds one artifact of the openai plugin and starts it as the host would, with base
// as its server.
func openaiArtifact(t *testing.T, artifact, base string) sdk.Provider {
	t.Helper()
	dir := t.TempDir()
	if _, err := manifest.Build(t.Context(), filepath.Join("plugins", "openai", artifact+".yaml"), dir); err != nil {
		t.Fatal(err)
	}
	m, err := manifest.Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	m, err = m.Narrow(manifest.Operator{Settings: map[string]any{"base_url": base}, AllowPrivate: []string{"127.0.0.1"}})
	if err != nil {
		t.Fatal(err)
	}
	log := testLog(t)
	gate, err := egress.New(m, egress.Options{Log: log, LookupEnv: func(name string) (string, bool) {
		return openaiKey, name == "OPENAI_API_KEY"
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(gate.Close)
	ctx := context.WithoutCancel(t.Context())
	if artifact == "sandbox" {
		rt, err := sandbox.NewRuntime(ctx, sandbox.Options{CacheDir: filepath.Join(os.TempDir(), "sluice-test-cache"), Log: log})
		if err != nil {
			t.Fatal(err)
		}
		p, err := rt.Load(ctx, m, gate)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := errors.Join(p.Close(ctx), rt.Close(ctx)); err != nil {
				t.Error(err)
			}
		})
		return p.Provider()
	}
	p, err := native.Start(ctx, m, native.Options{CacheDir: t.TempDir(), Egress: gate, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- p.Run(ctx) }()
	t.Cleanup(func() {
		if err := errors.Join(p.Close(ctx), <-ended); err != nil {
			t.Error(err)
		}
	})
	return p.Provider()
}

// openaiUpstream answers by the model of the request: a recorded dialect's name, or hang. It notes
// the keys it was sent and the connections that were closed on it.
type openaiUpstream struct {
	*httptest.Server
	keys   chan string
	closed chan struct{}
}

func newOpenAIUpstream(t *testing.T) *openaiUpstream {
	u := &openaiUpstream{keys: make(chan string, 100), closed: make(chan struct{}, 100)}
	u.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		u.keys <- r.Header.Get("Authorization")
		_, name, _ := bytes.Cut(body, []byte(`"model":"`))
		name, _, _ = bytes.Cut(name, []byte(`"`))
		w.Header().Set("Content-Type", "text/event-stream")
		switch string(name) {
		case "hang":
			io.WriteString(w, `data: {"choices":[{"index":0,"delta":{"content":"a"},"finish_reason":null}]}`+"\n\n")
			w.(http.Flusher).Flush()
			<-r.Context().Done()
			u.closed <- struct{}{}
		case "silent":
			<-r.Context().Done()
			u.closed <- struct{}{}
		case "echo-key":
			fmt.Fprintf(w, `data: {"choices":[{"index":0,"delta":{"content":"you sent %s"},"finish_reason":"stop"}]}`+"\n\n", r.Header.Get("Authorization"))
		case "redirect":
			w.Header().Set("Location", "http://169.254.169.254/")
			w.WriteHeader(http.StatusFound)
		default:
			stream, err := os.ReadFile(filepath.Join("plugins", "openai", "testdata", "dialects", string(name)+".sse"))
			if err != nil {
				t.Error(err)
			}
			for len(stream) > 0 { // in pieces that cut lines and characters
				n := min(len(stream), 7)
				w.Write(stream[:n])
				w.(http.Flusher).Flush()
				stream = stream[n:]
			}
		}
	}))
	t.Cleanup(u.Close)
	return u
}

func openaiAsk(ctx context.Context, p sdk.Provider, base, model string, emit func(sdk.Chunk)) error {
	req := &sdk.Request{
		JobID: "j", Attempt: 1, Model: model,
		Messages: []sdk.Message{{Role: sdk.RoleUser, Parts: []sdk.Part{sdk.TextPart("hi")}}},
		Settings: sdk.Settings(`{"base_url":"` + base + `"}`),
	}
	return p.Generate(ctx, req, func(c sdk.Chunk) error { emit(c); return nil })
}

// Both artifacts of the openai plugin make the same of what servers send, down to the byte; neither
// sees the key or reaches an origin that isn't its own, and a cancel reaches the upstream.
func TestOpenAIArtifacts(t *testing.T) {
	for _, artifact := range []string{"native", "sandbox"} {
		t.Run(artifact, func(t *testing.T) {
			upstream := newOpenAIUpstream(t)
			p := openaiArtifact(t, artifact, upstream.URL)

			t.Run("dialects", func(t *testing.T) {
				goldens, err := filepath.Glob(filepath.Join("plugins", "openai", "testdata", "dialects", "*.golden"))
				if err != nil || len(goldens) == 0 {
					t.Fatalf("no dialects: %v", err)
				}
				for _, golden := range goldens {
					name := strings.TrimSuffix(filepath.Base(golden), ".golden")
					var got strings.Builder
					err := openaiAsk(t.Context(), p, upstream.URL, name, func(c sdk.Chunk) { fmt.Fprintf(&got, "%#v\n", c) })
					if err == nil {
						got.WriteString("whole\n")
					} else {
						fmt.Fprintf(&got, "error: %s\n", sdk.AsError(err).Kind)
					}
					want, err := os.ReadFile(golden)
					if err != nil {
						t.Fatal(err)
					}
					if diff := cmp.Diff(string(want), got.String()); diff != "" {
						t.Errorf("%s (-want +got):\n%s", name, diff)
					}
					if key := <-upstream.keys; key != "Bearer "+openaiKey {
						t.Errorf("%s: the upstream was sent %q", name, key)
					}
				}
			})

			for _, model := range []string{"hang", "silent"} {
				t.Run("cancel "+model, func(t *testing.T) {
					ctx, cancel := context.WithCancel(t.Context())
					defer cancel()
					go func() { // before the head of the response, or after the first chunk
						<-upstream.keys
						if model == "silent" {
							cancel()
						}
					}()
					err := openaiAsk(ctx, p, upstream.URL, model, func(sdk.Chunk) { cancel() })
					if e := sdk.AsError(err); e == nil || e.Kind != sdk.Cancelled {
						t.Errorf("it returned %v", err)
					}
					select {
					case <-upstream.closed:
					case <-time.After(20 * time.Second):
						t.Error("the upstream's connection stays open")
					}
				})
			}

			t.Run("key", func(t *testing.T) {
				var said strings.Builder
				err := openaiAsk(t.Context(), p, upstream.URL, "echo-key", func(c sdk.Chunk) { fmt.Fprintf(&said, "%#v", c) })
				if err != nil || !strings.Contains(said.String(), "you sent") || strings.Contains(said.String(), openaiKey) {
					t.Errorf("an upstream that echoes the key: the plugin read %s, %v", said.String(), err)
				}
			})

			t.Run("origins", func(t *testing.T) {
				other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
					t.Error("an origin that isn't on the list was reached")
				}))
				defer other.Close()
				for _, base := range []string{other.URL, "http://169.254.169.254", "https://example.com"} {
					err := openaiAsk(t.Context(), p, base, "plain", func(sdk.Chunk) {})
					if e := sdk.AsError(err); e == nil || e.Kind != sdk.Denied {
						t.Errorf("%s: %v", base, err)
					}
				}
				if err := openaiAsk(t.Context(), p, upstream.URL, "redirect", func(sdk.Chunk) {}); err == nil {
					t.Error("a redirect was followed")
				}
			})
		})
	}
}

// testLog sends a log to the test.
func testLog(t *testing.T) *slog.Logger {
	return slog.New(slog.NewTextHandler(t.Output(), nil))
}
