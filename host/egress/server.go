package egress

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/sluicehq/sluice/sdk"
	"golang.org/x/net/netutil"
)

// ErrorHeader carries, base64 in standard encoding, the protobuf Error of a
// request that got no response. A response of the upstream never has it.
const ErrorHeader = "Sluice-Error"

const (
	flushBuffer = 16 << 10
	maxDrain    = 4 << 20 // of a refused request's body; over it, the plugin may see a broken connection
)

// Serve is the gate's face for native plugins: HTTP/1.1 with the absolute URL
// in the request line, as a proxy has it, without CONNECT. It serves l until
// ctx is done, then drops what is still under way and returns nil.
func (g *Gate) Serve(ctx context.Context, l net.Listener) error {
	l = netutil.LimitListener(l, g.doors())
	srv := &http.Server{
		Handler:                      http.HandlerFunc(g.serve),
		ReadHeaderTimeout:            dialTimeout,
		MaxHeaderBytes:               maxHeaderBytes + maxURL,
		DisableGeneralOptionsHandler: true,
		BaseContext:                  func(net.Listener) context.Context { return ctx },
		ErrorLog:                     slog.NewLogLogger(g.log.Handler(), slog.LevelDebug),
	}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(l) }()
	select {
	case err := <-served:
		return fmt.Errorf("serve egress of %s: %w", g.plugin, err)
	case <-ctx.Done():
	}
	// Cancelled requests end by themselves; those that don't are cut.
	down, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	if err := srv.Shutdown(down); err != nil {
		srv.Close()
	}
	<-served
	return nil
}

// doors is how many connections of the plugin's are taken at once; further ones wait. A process may
// have as many open files, but each costs the host one too, and a plugin may have hundreds of processes.
func (g *Gate) doors() int {
	return max(1, g.limits.Processes) * (256 + max(1, g.limits.Concurrency)*max(1, g.limits.OpenRequests))
}

func (g *Gate) serve(w http.ResponseWriter, r *http.Request) {
	rc := http.NewResponseController(w)
	// Without this the server closes the request's body as soon as the response begins, under the
	// transport that is still looking for its end, and the response breaks off.
	if err := rc.EnableFullDuplex(); err != nil {
		writeError(w, &sdk.Error{Kind: sdk.Internal, Fault: sdk.Host, Message: "egress: " + err.Error()})
		return
	}
	req := &Request{Method: r.Method, URL: r.RequestURI, Header: r.Header, Body: r.Body, Length: r.ContentLength}
	// These describe the plugin's own connection to the gate.
	for _, name := range []string{"Connection", "Keep-Alive", "Proxy-Connection", "Content-Length", "Transfer-Encoding"} {
		r.Header.Del(name)
	}
	resp, err := g.Do(r.Context(), req)
	if err != nil {
		// A connection closed on unread bytes is reset, which may overtake the error.
		if _, drain := io.CopyN(io.Discard, r.Body, maxDrain); drain != nil && drain != io.EOF {
			g.log.Debug("egress request broke off", "error", drain)
		}
		writeError(w, sdk.AsError(err))
		return
	}
	defer resp.Body.Close()
	for name, values := range resp.Header {
		w.Header()[name] = values
	}
	w.WriteHeader(resp.Status)
	if rc.Flush() != nil {
		return
	}
	buf := make([]byte, flushBuffer)
	for {
		n, err := resp.Body.Read(buf)
		if n > 0 {
			if _, err := w.Write(buf[:n]); err != nil {
				return
			}
			if rc.Flush() != nil {
				return
			}
		}
		switch {
		case errors.Is(err, io.EOF):
			return
		case err != nil:
			panic(http.ErrAbortHandler) // what was cut must look cut to the plugin too
		}
	}
}

func writeError(w http.ResponseWriter, e *sdk.Error) {
	b, err := e.MarshalBinary()
	if err != nil {
		b = nil // the status still says that there is no response
	}
	w.Header().Set(ErrorHeader, base64.StdEncoding.EncodeToString(b))
	w.WriteHeader(http.StatusBadGateway)
}
