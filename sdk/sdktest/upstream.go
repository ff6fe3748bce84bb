package sdktest

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sluicehq/sluice/sdk"
)

// Upstream is a server on the loopback address that speaks a dialect. What it answers depends on a
// word in the prompt, which the provider passes on whatever its dialect, so it answers many requests
// at the same time, whichever way they come. Safe for concurrent use.
type Upstream struct {
	URL     string // without a path
	dialect Dialect
	server  *httptest.Server
	closing context.Context
	close   context.CancelFunc
	open    atomic.Int64 // questions being answered
	sent    atomic.Int64 // bytes of endless answers that were taken

	mu      sync.Mutex
	scripts []*script
	wrong   []string // what Asked found, each once
}

// ending is what an upstream does after the last piece.
type ending int

const (
	whole  ending = iota // ends the body
	cut                  // breaks the connection
	stall                // waits until the connection is closed
	repeat               // says the last piece again, without end
)

// script is one answer.
type script struct {
	mute   bool // not even a head
	reset  bool // the connection, in place of a head
	reply  Reply
	pieces []string // after Reply.Body
	size   int      // of what is written at a time; 0: a piece
	end    ending
	// before is asked before a piece is sent, and may wait; nil is not asked.
	before func(ctx context.Context, piece int)
}

// Listen starts an upstream. Close it.
func (d Dialect) Listen() *Upstream {
	u := &Upstream{dialect: d}
	u.closing, u.close = context.WithCancel(context.Background())
	u.server = httptest.NewServer(http.HandlerFunc(u.serve))
	u.URL = u.server.URL
	return u
}

// Close ends the answers under way. It may be called more than once.
func (u *Upstream) Close() {
	u.close()
	u.server.Close()
}

// Open counts the requests being answered.
func (u *Upstream) Open() int { return int(u.open.Load()) }

// script remembers an answer, and makes the request that gets it.
func (u *Upstream) script(s script) *sdk.Request {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.scripts = append(u.scripts, &s)
	return u.ask(fmt.Sprintf("conformance-answer-%d-", len(u.scripts)-1))
}

func (u *Upstream) ask(prompt string) *sdk.Request {
	return &sdk.Request{
		JobID: prompt, Attempt: 1, Model: u.dialect.Model,
		Messages: []sdk.Message{{Role: sdk.RoleUser, Parts: []sdk.Part{sdk.TextPart(prompt)}}},
		Settings: sdk.Settings(sdk.JSON(u.dialect.Settings(u.URL))),
	}
}

var answerWord = regexp.MustCompile(`conformance-answer-(\d+)-`)

func (u *Upstream) find(r *http.Request, body []byte) *script {
	found := answerWord.FindSubmatch(body)
	if found == nil {
		found = answerWord.FindSubmatch([]byte(r.RequestURI))
	}
	if found == nil {
		return nil
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	n, err := strconv.Atoi(string(found[1]))
	if err != nil || n >= len(u.scripts) {
		return nil
	}
	return u.scripts[n]
}

func (u *Upstream) serve(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // the provider is gone already
	}
	if r.URL.Path == redirected {
		u.complain("it followed a redirect")
	}
	s := u.find(r, body)
	if s == nil {
		if u.dialect.Other == nil {
			http.NotFound(w, r)
			return
		}
		u.dialect.Other.ServeHTTP(w, r)
		return
	}
	u.open.Add(1)
	defer u.open.Add(-1)
	if u.dialect.Asked != nil {
		if err := u.dialect.Asked(r, body); err != nil {
			u.complain(err.Error())
		}
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	defer context.AfterFunc(u.closing, cancel)()
	u.answer(ctx, w, s)
}

// redirected is where the upstream sends those that follow it.
const redirected = "/conformance-redirect"

func (u *Upstream) complain(what string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, known := range u.wrong {
		if known == what {
			return
		}
	}
	if len(u.wrong) < 10 {
		u.wrong = append(u.wrong, what)
	}
}

func (u *Upstream) complaints() []string {
	u.mu.Lock()
	defer u.mu.Unlock()
	return append([]string(nil), u.wrong...)
}

// answer says a script. It returns early when the connection is closed.
func (u *Upstream) answer(ctx context.Context, w http.ResponseWriter, s *script) {
	if s.mute {
		<-ctx.Done()
		return
	}
	control := http.NewResponseController(w)
	if s.reset {
		conn, _, err := control.Hijack()
		if err != nil {
			u.complain("the kit can't reset a connection: " + err.Error())
			return
		}
		if tcp, ok := conn.(*net.TCPConn); ok {
			_ = tcp.SetLinger(0) // then closing resets it
		}
		conn.Close()
		return
	}
	for _, header := range []map[string]string{u.dialect.Header, s.reply.Header} {
		for name, value := range header {
			w.Header().Set(name, value)
		}
	}
	status := s.reply.Status
	if status == 0 {
		status = http.StatusOK
	}
	w.WriteHeader(status)
	write := func(text string) bool {
		for len(text) > 0 {
			n := len(text)
			if s.size > 0 {
				n = min(n, s.size)
			}
			if _, err := io.WriteString(w, text[:n]); err != nil || control.Flush() != nil || ctx.Err() != nil {
				return false
			}
			text = text[n:]
		}
		return true
	}
	if control.Flush() != nil || !write(s.reply.Body) {
		return
	}
	for i, piece := range s.pieces {
		if s.before != nil {
			s.before(ctx, i)
		}
		if !write(piece) {
			return
		}
	}
	switch s.end {
	case cut:
		panic(http.ErrAbortHandler)
	case stall:
		<-ctx.Done()
	case repeat:
		last := s.pieces[len(s.pieces)-1]
		for write(last) {
			u.sent.Add(int64(len(last)))
		}
	}
}

// heldBack waits until nobody takes any more of the upstream's endless answer. It reports false when
// the upstream got rid of most bytes.
func (u *Upstream) heldBack(ctx context.Context, most int64) bool {
	const still = 40 // looks in a row at the same count
	tick := time.NewTicker(25 * time.Millisecond)
	defer tick.Stop()
	began := u.sent.Load()
	last, same := began, 0
	for same < still {
		select {
		case <-ctx.Done():
			return false
		case <-tick.C:
		}
		now := u.sent.Load()
		if now-began > most {
			return false
		}
		if same++; now != last {
			last, same = now, 0
		}
	}
	return true
}
