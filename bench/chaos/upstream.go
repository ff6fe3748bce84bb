package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"
)

// upstream is a server that speaks the dialect of OpenAI's Chat Completions and
// remembers, by job, which of its requests are still open. Safe for concurrent use.
type upstream struct {
	server *http.Server
	base   string
	served chan error
	report *report

	mu   sync.Mutex
	jobs map[string]*asked
}

// asked is what has been asked for one job.
type asked struct {
	open    int
	closed  time.Time // when the last one ended
	limited int       // times it was told to come back later
	due     time.Time // before which it must not come back
}

// manner is how the upstream is to answer, passed along in the request.
type manner struct {
	Job     string  `json:"job"`
	DelayMS float64 `json:"delay_ms"` // between two words
	Endless bool    `json:"endless"`  // until it is cancelled
	Hold    bool    `json:"hold"`     // doesn't even send a head
	Limited int     `json:"limited"`  // times to answer 429 first
	WaitMS  int     `json:"wait_ms"`  // and what it says then
}

func newUpstream(r *report) (*upstream, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	u := &upstream{base: "http://" + ln.Addr().String(), served: make(chan error, 1), report: r, jobs: map[string]*asked{}}
	u.server = &http.Server{Handler: http.HandlerFunc(u.answer), ReadHeaderTimeout: time.Minute}
	go func() { u.served <- u.server.Serve(ln) }()
	return u, nil
}

func (u *upstream) close() {
	_ = u.server.Close()
	<-u.served
}

// of returns what is known of a job, with u.mu held.
func (u *upstream) of(id string) *asked {
	a := u.jobs[id]
	if a == nil {
		a = &asked{}
		u.jobs[id] = a
	}
	return a
}

// openOf tells whether requests of a job are open, and else when the last ended.
func (u *upstream) openOf(id string) (open int, closed time.Time) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if a := u.jobs[id]; a != nil {
		return a.open, a.closed
	}
	return 0, time.Time{}
}

func (u *upstream) forget(id string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if a := u.jobs[id]; a != nil && a.open == 0 {
		delete(u.jobs, id)
	}
}

func (u *upstream) answer(w http.ResponseWriter, r *http.Request) {
	var in struct {
		Chaos    manner `json:"chaos"`
		Messages []struct {
			Content string `json:"content"`
		} `json:"messages"`
	}
	body, err := io.ReadAll(r.Body)
	if err == nil {
		err = json.Unmarshal(body, &in)
	}
	if err != nil || len(in.Messages) != 1 {
		http.Error(w, `{"error":{"message":"cannot read it"}}`, http.StatusBadRequest)
		return
	}
	m := in.Chaos
	u.mu.Lock()
	a := u.of(m.Job)
	if now := time.Now(); now.Before(a.due) {
		u.report.early.add("job %s came back %s early", m.Job, a.due.Sub(now))
	} else if !a.due.IsZero() {
		u.report.waited(now.Sub(a.due))
	}
	a.due = time.Time{}
	limited := a.limited < m.Limited
	if limited {
		a.limited++
		a.due = time.Now().Add(time.Duration(m.WaitMS) * time.Millisecond)
	} else {
		a.open++
	}
	u.mu.Unlock()
	if limited {
		w.Header().Set("Retry-After-Ms", fmt.Sprint(m.WaitMS))
		http.Error(w, `{"error":{"message":"slow down"}}`, http.StatusTooManyRequests)
		return
	}
	defer func() {
		u.mu.Lock()
		a.open--
		a.closed = time.Now()
		u.mu.Unlock()
	}()
	if m.Hold {
		<-r.Context().Done()
		return
	}
	u.stream(r.Context(), w, in.Messages[0].Content, m)
}

func (u *upstream) stream(ctx context.Context, w http.ResponseWriter, text string, m manner) {
	w.Header().Set("Content-Type", "text/event-stream")
	flush := w.(http.Flusher).Flush
	flush()
	words := strings.SplitAfter(text, " ")
	tick := time.NewTimer(0)
	defer tick.Stop()
	for i := 0; m.Endless || i < len(words); i++ {
		tick.Reset(time.Duration(m.DelayMS * float64(time.Millisecond)))
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		word := words[i%len(words)]
		if m.Endless && i%len(words) == len(words)-1 {
			word += " "
		}
		quoted, _ := json.Marshal(word) // a string
		if _, err := fmt.Fprintf(w, "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":%s},\"finish_reason\":null}]}\n\n", quoted); err != nil {
			return
		}
		flush()
	}
	_, _ = io.WriteString(w, "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n")
	flush()
}
