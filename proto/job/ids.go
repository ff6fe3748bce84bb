package job

import (
	"crypto/rand"
	"encoding/base32"
	"encoding/binary"
	"fmt"
	"strconv"
	"strings"
	"time"
)

const maxIDLen = 128

// IDError reports a job id that is refused at the door.
type IDError struct{ Reason string }

func (e *IDError) Error() string { return "invalid job id: " + e.Reason }

// CheckID accepts 1 to 128 characters of A-Za-z0-9_.:- and returns an *IDError for anything else.
func CheckID(id string) error {
	switch {
	case id == "":
		return &IDError{"empty"}
	case len(id) > maxIDLen:
		return &IDError{fmt.Sprintf("%d characters, at most %d are allowed", len(id), maxIDLen)}
	}
	if Channel(id) == ProgressChannel {
		return &IDError{"reserved"} // its channel is the general one
	}
	for i := range len(id) {
		if !idChar(id[i]) {
			return &IDError{fmt.Sprintf("character %d: only A-Z a-z 0-9 _ . : - are allowed", i+1)}
		}
	}
	return nil
}

func idChar(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_' || c == '.' || c == ':' || c == '-'
}

var idEncoding = base32.NewEncoding("0123456789abcdefghjkmnpqrstvwxyz").WithPadding(base32.NoPadding)

// NewID makes an id that sorts by creation time: 48 bits of milliseconds, 80 random bits, 26 characters.
func NewID() string {
	var b [16]byte
	binary.BigEndian.PutUint64(b[:8], uint64(time.Now().UnixMilli())<<16)
	rand.Read(b[6:]) // never fails (crypto/rand)
	return idEncoding.EncodeToString(b[:])
}

// Ticket is what asynq carries: the right to begin one numbered attempt of a job, once.
type Ticket struct {
	Job     string `json:"job"`
	Attempt int64  `json:"attempt"`
}

// TaskID is the asynq task id, <job>#<attempt>: a doubled enqueue is a conflict, and a dead attempt's
// settlement can't touch the next one's task.
func (t Ticket) TaskID() string { return t.Job + "#" + strconv.FormatInt(t.Attempt, 10) }

// ParseTicket reads a task id.
func ParseTicket(s string) (Ticket, error) {
	i := strings.LastIndexByte(s, '#')
	if i < 0 {
		return Ticket{}, fmt.Errorf("ticket %q: want <job>#<attempt>", s)
	}
	if err := CheckID(s[:i]); err != nil {
		return Ticket{}, fmt.Errorf("ticket %q: %w", s, err)
	}
	n, err := strconv.ParseInt(s[i+1:], 10, 64)
	if err != nil || n < 1 || s[i+1:] != strconv.FormatInt(n, 10) {
		return Ticket{}, fmt.Errorf("ticket %q: want an attempt number from 1", s)
	}
	return Ticket{Job: s[:i], Attempt: n}, nil
}
