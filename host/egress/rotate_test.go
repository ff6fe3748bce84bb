package egress

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// rotating is an upstream that wants one key, and the gate of a plugin whose key
// is in a file. The gate's clock stands still.
type rotating struct {
	*Gate
	log    *records
	url    string
	file   string
	wanted atomic.Value
	asked  atomic.Int64
	clock  time.Time
}

const oldKey, newKey = "sk-old-0123456789", "sk-new-9876543210"

func rotate(t *testing.T, reference string) *rotating {
	t.Helper()
	r := &rotating{file: filepath.Join(t.TempDir(), "key"), clock: time.Unix(1000, 0)}
	r.wanted.Store(oldKey)
	r.write(t, oldKey)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		r.asked.Add(1)
		body, _ := io.ReadAll(req.Body)
		if sent := req.Header.Get("Authorization"); sent != "Bearer "+r.wanted.Load().(string) {
			w.WriteHeader(http.StatusUnauthorized)
			fmt.Fprintf(w, "no: %s", sent)
			return
		}
		fmt.Fprintf(w, "%s, once %s, now %s", body, oldKey, newKey)
	}))
	t.Cleanup(srv.Close)
	r.url = srv.URL
	m := testManifest(t, "", srv.URL)
	m.AllowPrivate = []string{"127.0.0.1"}
	m.Secrets[0].From = fmt.Sprintf(reference, r.file)
	r.Gate, r.log = newGate(t, m, Options{})
	r.vault.now = func() time.Time { return r.clock }
	r.clock = time.Now()
	return r
}

func (r *rotating) write(t *testing.T, key string) {
	t.Helper()
	if err := os.WriteFile(r.file, []byte(key+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
}

// ask posts a body and returns the status and the answer.
func (r *rotating) ask(t *testing.T, body io.Reader) (int, string) {
	t.Helper()
	resp, err := r.Do(t.Context(), &Request{
		Method: "POST", URL: r.url, Header: http.Header{"Authorization": {"Bearer ${secret:KEY}"}}, Body: body, Length: 5,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if s := string(text); strings.Contains(s, oldKey) || resp.Status == 200 && strings.Contains(s, newKey) && r.wanted.Load() == newKey {
		t.Errorf("the plugin read a key: %s", s)
	}
	return resp.Status, string(text)
}

// A key that was replaced is read again when the upstream refuses the old one,
// and the request is sent once more.
func TestSecretsAreReadAgain(t *testing.T) {
	for _, reference := range []string{"file:%s", "cmd:cat %s"} {
		t.Run(reference, func(t *testing.T) {
			r := rotate(t, reference)
			if status, text := r.ask(t, bytes.NewReader([]byte("hello"))); status != 200 {
				t.Fatal(status, text)
			}
			r.wanted.Store(newKey)
			if status, _ := r.ask(t, bytes.NewReader([]byte("hello"))); status != 401 || r.asked.Load() != 2 {
				t.Errorf("a key that was read just now was read again: %d after %d requests", status, r.asked.Load())
			}
			r.clock = r.clock.Add(time.Minute)
			if status, _ := r.ask(t, bytes.NewReader([]byte("hello"))); status != 401 || r.asked.Load() != 3 {
				t.Errorf("asked again with the same key: %d after %d requests", status, r.asked.Load())
			}
			r.write(t, newKey)
			r.clock = r.clock.Add(time.Minute)
			status, text := r.ask(t, bytes.NewReader([]byte("hello")))
			if status != 200 || !strings.HasPrefix(text, "hello, once ***") || r.asked.Load() != 5 {
				t.Errorf("with a new key: %d %q after %d requests", status, text, r.asked.Load())
			}
			if log := r.log.all(); strings.Contains(log, oldKey) || strings.Contains(log, newKey) || !strings.Contains(log, "secret has changed") {
				t.Errorf("log: %s", log)
			}
		})
	}
}

// What streams can't be sent twice, but the next request has the new key.
func TestStreamedBodiesAreNotSentAgain(t *testing.T) {
	r := rotate(t, "file:%s")
	r.wanted.Store(newKey)
	r.write(t, newKey)
	r.clock = r.clock.Add(time.Minute)
	if status, _ := r.ask(t, io.MultiReader(strings.NewReader("hello"))); status != 401 || r.asked.Load() != 1 {
		t.Errorf("%d after %d requests", status, r.asked.Load())
	}
	if status, _ := r.ask(t, io.MultiReader(strings.NewReader("hello"))); status != 200 {
		t.Errorf("the next: %d", status)
	}
}

// A key that isn't refused is read again all the same, from time to time, and
// one that can't be read stays.
func TestSecretsGrowOld(t *testing.T) {
	r := rotate(t, "file:%s")
	if err := os.Remove(r.file); err != nil {
		t.Fatal(err)
	}
	r.clock = r.clock.Add(2 * rereadAfter)
	if status, text := r.ask(t, nil); status != 200 {
		t.Errorf("without its file: %d %s", status, text)
	}
	if !strings.Contains(r.log.all(), "secrets can't be read again") {
		t.Error("nothing in the log")
	}
	r.wanted.Store(newKey)
	r.write(t, newKey)
	r.clock = r.clock.Add(rereadAfter / 2)
	if k := r.vault.keys(); k.byName["KEY"].value != oldKey {
		t.Error("read again too early")
	}
	r.clock = r.clock.Add(rereadAfter)
	if status, text := r.ask(t, nil); status != 200 || r.asked.Load() != 2 {
		t.Errorf("%d %s after %d requests", status, text, r.asked.Load())
	}
}
