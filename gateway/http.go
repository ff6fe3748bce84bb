package gateway

import (
	"context"
	"fmt"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"golang.org/x/time/rate"

	"github.com/sluicehq/sluice/config"
	clientjs "github.com/sluicehq/sluice/gateway/client"
	"github.com/sluicehq/sluice/gateway/page"
	"github.com/sluicehq/sluice/proto/job"
)

// Times of the HTTP side. A client that sends no more of its request, or takes no
// more of the answer, holds nothing for longer. There is no limit on a poll: it
// waits for as long as there is nothing to say.
const (
	headerTimeout = 10 * time.Second
	bodyTimeout   = 10 * time.Second
	answerTimeout = 2 * time.Minute
	idleTimeout   = 2 * time.Minute
	readyTimeout  = 2 * time.Second
)

func newHTTPServer(c *core, sockets http.Handler) *http.Server {
	mux := http.NewServeMux()
	mux.HandleFunc(c.conf.Path, func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).SetWriteDeadline(time.Time{}) // the engine sets its own
		sockets.ServeHTTP(w, r)
	})
	// Pages that were written for Node's server load its client from there:
	// https://socket.io/docs/v4/client-installation/#standalone-build
	for name, script := range map[string][]byte{
		"socket.io.js": clientjs.SocketIO, "socket.io.min.js": clientjs.SocketIO, "socket.io.esm.min.js": clientjs.SocketIOModule,
	} {
		mux.Handle("GET "+strings.TrimSuffix(c.conf.Path, "/")+"/"+name, page.Script(script))
	}
	mux.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) {
		plain(w, http.StatusOK, "ok")
	})
	mux.HandleFunc("/readyz", func(w http.ResponseWriter, r *http.Request) {
		if c.admission.isClosed() {
			plain(w, http.StatusServiceUnavailable, "stopping")
			return
		}
		ready(w, r, c.store)
	})
	mux.Handle("GET /metrics", c.serveMetrics())
	mux.HandleFunc("/v1/jobs/{id}", c.serveJob)
	if c.conf.Page {
		mux.Handle("/", page.Handler(c.conf.Path))
	}
	return &http.Server{
		Handler:           bounded(secured(c.conf, mux)),
		ConnState:         c.admission.watch,
		ReadHeaderTimeout: headerTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    32 << 10,
		ErrorLog:          log.New(&serverLog{log: c.log, complaints: rate.NewLimiter(rate.Every(10*time.Second), 1)}, "", 0),
	}
}

// serverLog takes what the HTTP server has to say: mostly what strangers do to it,
// but also that it can take no connection.
type serverLog struct {
	log        *slog.Logger
	complaints *rate.Limiter // it tries again many times a second
}

func (l *serverLog) Write(line []byte) (int, error) {
	text := strings.TrimSpace(string(line))
	switch {
	case !strings.HasPrefix(text, "http: Accept error"):
		l.log.Debug(text)
	case l.complaints.Allow():
		l.log.Warn("no connection can be taken", "error", text, "remedy", "let the process have more open files (ulimit -n, or LimitNOFILE= under systemd)")
	}
	return len(line), nil
}

// ready says whether this gateway can take jobs: whether Redis takes writes.
func ready(w http.ResponseWriter, r *http.Request, store *job.Store) {
	ctx, cancel := context.WithTimeout(r.Context(), readyTimeout)
	defer cancel()
	if err := store.Writable(ctx); err != nil {
		plain(w, http.StatusServiceUnavailable, err.Error())
		return
	}
	plain(w, http.StatusOK, "ready")
}

func plain(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	fmt.Fprintln(w, text)
}

// bounded sets the time that a request's body and its answer may take. What the
// one before on the same connection has left is gone then.
func bounded(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		connection := http.NewResponseController(w)
		if r.ContentLength != 0 { // without a body the server watches for the client's end meanwhile
			_ = connection.SetReadDeadline(time.Now().Add(bodyTimeout))
		}
		_ = connection.SetWriteDeadline(time.Now().Add(answerTimeout))
		next.ServeHTTP(w, r)
	})
}

// secured sets the headers that every answer has, and refuses foreign host
// names while nobody has to sign in: a web page that points its own name at a
// loopback address would otherwise pass for this gateway's page.
func secured(c config.Gateway, next http.Handler) http.Handler {
	local := (c.Auth.Mode == "none" || c.Auth.Mode == "") && !c.Auth.InsecurePublic
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("X-Frame-Options", "DENY")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		if local && !loopbackName(r.Host) && !slices.Contains(hosts(c.Origins), r.Host) {
			plain(w, http.StatusForbidden, "this gateway lets in everybody, so it answers to loopback names only: "+
				"open it as localhost, or set gateway.auth.mode, or name the origin in gateway.origins")
			return
		}
		next.ServeHTTP(w, r)
	})
}

func loopbackName(hostport string) bool {
	host := hostport
	if h, _, err := net.SplitHostPort(hostport); err == nil {
		host = h
	}
	host = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	if ip := net.ParseIP(host); ip != nil {
		return ip.IsLoopback()
	}
	return strings.EqualFold(host, "localhost") || strings.HasSuffix(strings.ToLower(host), ".localhost")
}

// hosts lists the host:port parts of the configured origins.
func hosts(origins []string) []string {
	var all []string
	for _, o := range origins {
		if u, err := url.Parse(o); err == nil && u.Host != "" {
			all = append(all, u.Host)
		}
	}
	return all
}

// originAllowed accepts pages of the gateway itself and those on the list.
func originAllowed(allowed []string, origin, host string) bool {
	if u, err := url.Parse(origin); err == nil && u.Host != "" && strings.EqualFold(u.Host, host) {
		return true
	}
	return slices.Contains(allowed, "*") || slices.Contains(allowed, origin)
}
