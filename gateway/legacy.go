package gateway

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/maphash"
	"log/slog"
	"regexp"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/sluicehq/sluice/proto/job"
)

// Legacy messages are what workers from before the job log publish: without
// seq, on a general channel, on job:<id>, or on both. They can't be resumed;
// all that can be done for them is to pass each on, once.

// legacyMessage is one such message, ready to be forwarded.
type legacyMessage struct {
	Event string
	Job   string
	User  string
	Data  []byte // the data object, compact JSON
}

// legacyEvents maps a general channel to the event its direct messages mean.
var legacyEvents = map[string]string{
	"model:chunk":    "model:chunk:v1",
	"model:complete": "model:complete:v1",
	"job:progress":   "task:progress:v1",
}

// eventName is what a wrapped message may call itself. Names with a meaning of
// their own in Socket.IO or in the session are taken out below.
var eventName = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_:.-]{0,63}$`)

var reservedEvents = map[string]bool{
	"connect": true, "connect_error": true, "connected": true, "disconnect": true,
	"disconnecting": true, "newListener": true, "removeListener": true,
}

// parseLegacy reads a message of either shape: wrapped {event,data} or direct
// {jobId,userId,chunk,index,…}, whose event follows from the channel, and on
// job:<id> from the fields it has.
func parseLegacy(channel string, payload []byte) (legacyMessage, error) {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(payload, &fields); err != nil {
		return legacyMessage{}, fmt.Errorf("not a JSON object: %w", err)
	}
	if fields == nil {
		return legacyMessage{}, errors.New("not a JSON object")
	}
	var m legacyMessage
	if wrapped, ok := fields["data"]; ok && fields["event"] != nil {
		if err := json.Unmarshal(fields["event"], &m.Event); err != nil {
			return legacyMessage{}, errors.New("event is not a text")
		}
		fields = nil
		if err := json.Unmarshal(wrapped, &fields); err != nil || fields == nil {
			return legacyMessage{}, errors.New("data is not a JSON object")
		}
		payload = wrapped
	} else if m.Event = legacyEvents[channel]; m.Event == "" {
		m.Event = guessEvent(fields)
	}
	if !eventName.MatchString(m.Event) || reservedEvents[m.Event] {
		return legacyMessage{}, fmt.Errorf("no event of that name: %.80q", m.Event)
	}
	m.Job = text(fields["jobId"])
	if id, ok := strings.CutPrefix(channel, "job:"); ok && m.Job == "" && legacyEvents[channel] == "" {
		m.Job = id
	}
	m.User = text(fields["userId"])
	if m.User == "" && m.Job == "" {
		return legacyMessage{}, errors.New("neither userId nor jobId")
	}
	var b bytes.Buffer
	if err := json.Compact(&b, payload); err != nil {
		return legacyMessage{}, fmt.Errorf("compact: %w", err)
	}
	m.Data = bytes.ToValidUTF8(b.Bytes(), []byte("\uFFFD")) // browsers end a connection that sends anything else
	return m, nil
}

// guessEvent tells a direct message's event by its fields, most telling first.
func guessEvent(fields map[string]json.RawMessage) string {
	for _, mark := range []struct{ field, event string }{
		{"chunk", "model:chunk:v1"},
		{"progress", "task:progress:v1"},
		{"finishReason", "model:complete:v1"},
		{"tokens", "model:complete:v1"},
		{"text", "model:complete:v1"},
		{"error", "model:error:v1"},
		{"code", "model:error:v1"},
		{"status", "task:progress:v1"},
	} {
		if fields[mark.field] != nil {
			return mark.event
		}
	}
	return ""
}

// text reads a JSON text, or a number as the text it is written as: ids of
// older workers come in both forms.
func text(raw json.RawMessage) string {
	var s string
	if json.Unmarshal(raw, &s) == nil {
		return s
	}
	var n json.Number
	if json.Unmarshal(raw, &n) == nil {
		return n.String()
	}
	return ""
}

// Bounds of the memory for what has passed. Both publications of one message
// come within milliseconds of each other; what is equal and comes seconds later
// is another message.
const (
	legacyWindow = 2 * time.Second
	legacyMemory = 8192
)

// channelKind tells the two ways on which a message may come.
type channelKind int

const (
	generalChannel channelKind = iota
	jobChannel
)

func kindOf(channel string) channelKind {
	if strings.HasPrefix(channel, "job:") && legacyEvents[channel] == "" {
		return jobChannel
	}
	return generalChannel
}

// dedupe lets a message through once although it may come on both kinds of
// channel. Equal messages are counted per kind, and as many pass as the larger
// count: three equal chunks on one kind are three chunks, the same three on the
// other kind are none. Safe for concurrent use.
type dedupe struct {
	seed maphash.Seed
	now  func() time.Time

	mu sync.Mutex
	// What was seen in this window and in the one before. A message seen again
	// moves to this window, so it is forgotten after one to two windows of
	// silence. Both maps together hold at most legacyMemory entries.
	current, previous map[uint64]*sighting
	turned            time.Time
}

type sighting struct {
	counts    [2]int
	delivered int
}

func newDedupe(now func() time.Time) *dedupe {
	return &dedupe{seed: maphash.MakeSeed(), now: now, current: map[uint64]*sighting{}, turned: now()}
}

// pass reports whether this message is to be forwarded.
func (d *dedupe) pass(kind channelKind, m legacyMessage) bool {
	key := d.key(m)
	d.mu.Lock()
	defer d.mu.Unlock()
	if now := d.now(); now.Sub(d.turned) >= legacyWindow || len(d.current) >= legacyMemory/2 {
		if now.Sub(d.turned) >= 2*legacyWindow {
			clear(d.current)
		}
		d.previous, d.current, d.turned = d.current, map[uint64]*sighting{}, now
	}
	s := d.current[key]
	if s == nil {
		if s = d.previous[key]; s == nil {
			s = &sighting{}
		}
		delete(d.previous, key)
		d.current[key] = s
	}
	s.counts[kind]++
	if s.counts[kind] <= s.delivered {
		return false
	}
	s.delivered++
	return true
}

func (d *dedupe) key(m legacyMessage) uint64 {
	var h maphash.Hash
	h.SetSeed(d.seed)
	for _, part := range [...]string{m.Event, m.User, m.Job} {
		h.WriteString(part)
		h.WriteByte(0)
	}
	h.Write(m.Data)
	return h.Sum64()
}

// forwarder passes legacy messages on to the sockets of their user, or of a
// message that names none, to those that watch its job. Older workers know of no
// tenants: a user of one has to watch the job.
type forwarder struct {
	hub  *hub
	log  *slog.Logger
	seen *dedupe
	// complaints are rate-limited: one broken publisher must not fill the log.
	complaints *rate.Limiter
	metrics    *metrics
}

func newForwarder(h *hub, log *slog.Logger, m *metrics) *forwarder {
	return &forwarder{hub: h, log: log, metrics: m, seen: newDedupe(time.Now), complaints: rate.NewLimiter(rate.Every(10*time.Second), 3)}
}

// forward takes a message from the tail. It must not block.
func (f *forwarder) forward(channel string, payload []byte) {
	m, err := parseLegacy(channel, payload)
	if err != nil {
		if f.complaints.Allow() {
			f.log.Warn("message on a channel can't be read", "channel", channel, "bytes", len(payload), "error", err)
		}
		return
	}
	if !f.seen.pass(kindOf(channel), m) {
		return
	}
	f.metrics.legacy.Inc()
	to := f.hub.of(job.Owner("", m.User))
	if m.User == "" {
		to = f.hub.watchersOf(m.Job)
	}
	for _, s := range to {
		s.box.send(m.Event, m.Data)
	}
}
