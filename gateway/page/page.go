// Package page is the page that the gateway serves at /: ask, watch the answer
// arrive, cancel, come back to it. Plain HTML, CSS and JavaScript without a
// build step, embedded in the binary together with the client package, so that
// it asks nothing of any other server.
package page

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"net/http"
	"path"
	"strings"
)

// sluice.js is the client package as one file, with the Socket.IO client in it.
//
//go:generate cp ../client/dist/sluice.js sluice.js
//go:embed index.html *.css *.js icon.svg
var files embed.FS

// policy allows what the page needs, all of it from this server: no inline
// script, no inline style, no frame, no form.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; " +
	"connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

var types = map[string]string{
	".html": "text/html; charset=utf-8",
	".css":  "text/css; charset=utf-8",
	".js":   "text/javascript; charset=utf-8",
	".svg":  "image/svg+xml",
}

// file is one of the page's files, ready to be sent.
type file struct {
	body []byte
	kind string
	tag  string
}

// Handler serves the page: / and /page/…. socketPath is the path of the
// gateway's Socket.IO endpoint, which the page reads from a meta element.
func Handler(socketPath string) http.Handler {
	served := map[string]file{}
	entries, err := files.ReadDir(".")
	if err != nil {
		panic("page: " + err.Error()) // embedded: can't happen
	}
	for _, e := range entries {
		body, err := files.ReadFile(e.Name())
		if err != nil {
			panic("page: " + err.Error())
		}
		at := "/page/" + e.Name()
		if e.Name() == "index.html" {
			at = "/"
			body = bytes.ReplaceAll(body, []byte("{{socket-path}}"), []byte(escape(socketPath)))
		}
		served[at] = newFile(e.Name(), body)
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f, ok := served[r.URL.Path]
		if !ok {
			http.NotFound(w, r)
			return
		}
		f.ServeHTTP(w, r)
	})
}

// Script serves one script.
func Script(body []byte) http.Handler { return newFile("a.js", body) }

func newFile(name string, body []byte) file {
	sum := sha256.Sum256(body)
	return file{body, types[path.Ext(name)], `"` + hex.EncodeToString(sum[:8]) + `"`}
}

func (f file) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "this is a page to read", http.StatusMethodNotAllowed)
		return
	}
	h := w.Header()
	h.Set("Content-Type", f.kind)
	h.Set("Content-Security-Policy", policy)
	h.Set("Cache-Control", "no-cache") // ask again each time: the tag answers
	h.Set("ETag", f.tag)
	if r.Header.Get("If-None-Match") == f.tag {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	_, _ = w.Write(f.body) // the client is gone
}

var escaper = strings.NewReplacer("&", "&amp;", `"`, "&quot;", "<", "&lt;", ">", "&gt;")

func escape(s string) string { return escaper.Replace(s) }
