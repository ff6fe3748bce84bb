package egress

import (
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
)

// Answers that begin while the request's body is just being ended, and refusals of requests whose
// body nobody reads, arrive whole: both raced with the closing of that body.
func TestUnixSocketBodies(t *testing.T) {
	answer := strings.Repeat("0123456", 200)
	srv := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			t.Error(err)
		}
		for rest := answer; rest != ""; rest = rest[7:] {
			io.WriteString(w, rest[:7])
			http.NewResponseController(w).Flush()
		}
	})
	m := testManifest(t, "", srv.URL)
	m.AllowPrivate = []string{"127.0.0.1"}
	g, _ := newGate(t, m, Options{})
	client := face(t, g)
	body := strings.Repeat("x", 200<<10)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for n := range 100 {
				resp, err := client.Post(srv.URL, "text/plain", strings.NewReader(body[:n*100]))
				if err != nil {
					t.Error(err)
					return
				}
				got, err := io.ReadAll(resp.Body)
				resp.Body.Close()
				if string(got) != answer || err != nil {
					t.Errorf("an answer of %d bytes arrived as %d, %v", len(answer), len(got), err)
				}
				resp, err = client.Post("http://169.254.169.254/", "text/plain", strings.NewReader(body))
				if err != nil {
					t.Errorf("refusal: %v", err)
					return
				}
				resp.Body.Close()
				if resp.Header.Get(ErrorHeader) == "" {
					t.Error("a refusal came without its error")
				}
			}
		})
	}
	wg.Wait()
}
