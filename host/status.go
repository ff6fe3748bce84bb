package host

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Times of the status server.
const (
	statusHeaders = 5 * time.Second
	statusIdle    = time.Minute
	readyTimeout  = 2 * time.Second
)

// status answers the operator's questions over HTTP: whether the host lives,
// whether it can take jobs, and its metrics. It is there before the plugins are
// started, which may take minutes.
type status struct {
	metrics *metrics
	stop    context.Context // ends when the host takes no more
	host    atomic.Pointer[host]
}

// listen opens host.addr.
func listen(addr string) (net.Listener, error) {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("host.addr: %w", err)
	}
	return l, nil
}

// serve answers on l until done is called, which waits for that.
func (s *status) serve(l net.Listener, log *slog.Logger) (done func()) {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { plain(w, http.StatusOK, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		if err := s.ready(r.Context()); err != nil {
			plain(w, http.StatusServiceUnavailable, err.Error())
			return
		}
		plain(w, http.StatusOK, "ready")
	})
	mux.Handle("GET /metrics", promhttp.HandlerFor(s.metrics.registry, promhttp.HandlerOpts{}))
	server := &http.Server{
		Handler: mux, ReadHeaderTimeout: statusHeaders, ReadTimeout: statusHeaders, WriteTimeout: statusIdle, IdleTimeout: statusIdle, MaxHeaderBytes: 16 << 10,
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			log.Error("status is not served any more", "error", err)
		}
	}()
	log.Info("status is served", "addr", l.Addr().String())
	return func() {
		_ = server.Close() // answers are short, and who asks asks again
		<-ended
	}
}

// ready says why the host can't take jobs, nil if it can.
func (s *status) ready(ctx context.Context) error {
	h := s.host.Load()
	switch {
	case s.stop.Err() != nil:
		return errors.New("stopping")
	case h == nil || h.hosts.LastBeat().IsZero():
		return errors.New("starting")
	case len(h.worker.routes.announced()) == 0:
		return errors.New("no plugin is in service")
	}
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	return h.store.Writable(ctx)
}

func plain(w http.ResponseWriter, code int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(code)
	fmt.Fprintln(w, text)
}
