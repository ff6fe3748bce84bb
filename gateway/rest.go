package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/sluicehq/sluice/proto/job"
)

// maxReads is how many jobs are read at the same time for clients without a
// socket; who comes more waits, at most for readTime.
const (
	maxReads = 8
	readTime = 10 * time.Second
)

// jobState is the answer to GET /v1/jobs/{id}.
type jobState struct {
	JobID   string `json:"jobId"`
	UserID  string `json:"userId"`
	State   string `json:"state"`
	Attempt int64  `json:"attempt"`
	Seq     int64  `json:"seq"`
	Model   string `json:"model,omitempty"`
	Text    string `json:"text"` // so far
	// Ms since the epoch, 0 if it has not happened.
	Created int64 `json:"created"`
	Started int64 `json:"started,omitempty"`
	Ended   int64 `json:"ended,omitempty"`
	// Result is the data of the terminal frame, once there is one, and Event
	// the name of it.
	Event  string          `json:"event,omitempty"`
	Result json.RawMessage `json:"result,omitempty"`
}

// serveJob answers with the state of a job and its text so far, to whoever may
// watch it.
func (c *core) serveJob(w http.ResponseWriter, r *http.Request) {
	if !c.crossOrigin(w, r) {
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), readTime)
	defer cancel()
	who, err := c.auth.identify(ctx, credentials{Header: r.Header.Get("Authorization")})
	if err != nil {
		refusal := asUnauthorized(err)
		status := http.StatusServiceUnavailable
		if refusal.Code == codeUnauthorized {
			w.Header().Set("WWW-Authenticate", "Bearer")
			status = http.StatusUnauthorized
		}
		c.refuseHTTP(w, status, refusal)
		return
	}
	id := r.PathValue("id")
	if err := checkJobID(id); err != nil {
		c.refuseHTTP(w, http.StatusBadRequest, asRefused(err))
		return
	}
	state, err := c.readInTurn(ctx, id, who)
	if err != nil {
		refusal, known := errors.AsType[*refused](err)
		if !known {
			refusal = asRefused(c.jobError("read", id, err))
		}
		status := map[string]int{codeNotFound: http.StatusNotFound, codeUnavailable: http.StatusServiceUnavailable}[refusal.Code]
		if status == 0 {
			status = http.StatusInternalServerError
		}
		c.refuseHTTP(w, status, refusal)
		return
	}
	writeJSON(w, http.StatusOK, state)
}

// readInTurn reads a job when others have been read. Who takes long to take the
// answer keeps nobody from reading.
func (c *core) readInTurn(ctx context.Context, id string, who identity) (jobState, error) {
	select {
	case c.reads <- struct{}{}:
		defer func() { <-c.reads }()
	case <-ctx.Done():
		return jobState{}, refuse(codeUnavailable, "too many jobs are being read").after(comeBack)
	}
	return c.readJob(ctx, id, who)
}

// readJob reads a job's log to its end. What is appended meanwhile may be missing.
func (c *core) readJob(ctx context.Context, id string, who identity) (jobState, error) {
	st, err := c.store.Status(ctx, id)
	if err == nil && !who.may(st) {
		err = job.ErrNotFound
	}
	if err != nil {
		return jobState{}, err
	}
	var out jobState
	var text []job.Frame
	for after := int64(0); ; {
		frames, now, err := c.store.Read(ctx, id, after, maxPage)
		if err != nil {
			return jobState{}, err
		}
		for _, f := range frames {
			switch {
			case f.Event == job.EventStart, f.Event == job.EventChunk:
				text = append(text, f)
			case f.Terminal():
				out.Event, out.Result = f.Event, f.Data
			}
			after = f.Seq
		}
		if st = now; len(frames) < maxPage {
			out.Seq = after
			break
		}
		if len(text) > maxPage { // several attempts, or many small chunks
			text = job.Merge(text, mergeSize)
		}
	}
	if out.Text, err = job.Text(text); err != nil {
		return jobState{}, err
	}
	out.JobID, out.UserID, out.State, out.Attempt, out.Model = id, st.User, string(st.State), st.Attempt, st.Model
	out.Created, out.Started, out.Ended = ms(st.Created), ms(st.Started), ms(st.Ended)
	return out, nil
}

func ms(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

// crossOrigin lets pages of the allowed origins read answers. False: answered.
func (c *core) crossOrigin(w http.ResponseWriter, r *http.Request) bool {
	h := w.Header()
	h.Add("Vary", "Origin")
	if origin := r.Header.Get("Origin"); origin != "" {
		if !originAllowed(c.conf.Origins, origin, r.Host) {
			c.refuseHTTP(w, http.StatusForbidden, refuse(codeUnauthorized, "pages of this origin may not connect, see gateway.origins"))
			return false
		}
		h.Set("Access-Control-Allow-Origin", origin)
	}
	switch r.Method {
	case http.MethodGet, http.MethodHead:
		return true
	case http.MethodOptions:
		h.Set("Access-Control-Allow-Methods", "GET")
		h.Set("Access-Control-Allow-Headers", "Authorization")
		h.Set("Access-Control-Max-Age", "600")
		w.WriteHeader(http.StatusNoContent)
		return false
	}
	h.Set("Allow", "GET, HEAD, OPTIONS")
	c.refuseHTTP(w, http.StatusMethodNotAllowed, refuse(codeInvalidPayload, "a job can only be read here"))
	return false
}

// refuseHTTP answers in the shape of an ack.
func (c *core) refuseHTTP(w http.ResponseWriter, status int, why *refused) {
	c.metrics.refused(why.Code)
	if why.RetryAfterMs > 0 {
		w.Header().Set("Retry-After", strconv.FormatInt((why.RetryAfterMs+999)/1000, 10))
	}
	writeJSON(w, status, answer{Error: why})
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	b := encode(v)
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Content-Length", strconv.Itoa(len(b)))
	h.Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = w.Write(b) // the client is gone
}

// serveMetrics serves the metrics to this machine, and to those who show that
// they are an admin or have the role metrics.
func (c *core) serveMetrics() http.Handler {
	metrics := promhttp.HandlerFor(c.metrics.registry, promhttp.HandlerOpts{})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !direct(r) {
			ctx, cancel := context.WithTimeout(r.Context(), authTimeout)
			defer cancel()
			who, err := c.auth.identify(ctx, credentials{Header: r.Header.Get("Authorization")})
			if err != nil || !who.Monitor && (!who.Admin || who.Tenant != "") {
				w.Header().Set("WWW-Authenticate", "Bearer")
				c.refuseHTTP(w, http.StatusUnauthorized, refuse(codeUnauthorized,
					"the metrics are for this machine, and for tokens and keys with the role metrics or admin"))
				return
			}
		}
		metrics.ServeHTTP(w, r)
	})
}

// direct reports whether a request comes from this machine, asks for this machine,
// and doesn't come by a proxy: nor by a page whose name was pointed here.
func direct(r *http.Request) bool {
	for _, name := range []string{"X-Forwarded-For", "Forwarded", "X-Real-Ip", "Via"} {
		if r.Header.Get(name) != "" {
			return false
		}
	}
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	ip := net.ParseIP(host)
	return err == nil && ip != nil && ip.IsLoopback() && loopbackName(r.Host)
}
