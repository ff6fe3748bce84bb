package gateway

import (
	"context"
	"encoding/json"
	"time"
)

// warning is how long before its end a session is told so. One that lives
// shorter is told at half of its time.
const warning = 90 * time.Second

// ending is the data of the event that warns: the session ends unless it is
// renewed (auth:renew:v1) before.
type ending struct {
	ExpiresAt int64 `json:"expiresAt"` // ms
	InMs      int64 `json:"inMs"`
}

// renewAuth takes a new token for the same user on the live socket.
func (s *session) renewAuth(ctx context.Context, req request) (answer, func(), error) {
	var in struct {
		Token string `json:"token"`
	}
	if json.Unmarshal(req.Payload, &in) != nil {
		return answer{}, nil, refuse(codeInvalidPayload, "token is not a text")
	}
	ctx, cancel := context.WithTimeout(ctx, authTimeout)
	defer cancel()
	who, err := s.c.auth.identify(ctx, credentials{Auth: in.Token})
	if err != nil {
		s.log.Info("token refused on a live socket", "error", err)
		return answer{}, nil, asUnauthorized(err)
	}
	if who.owner() != s.owner {
		return answer{}, nil, refuse(codeUnauthorized, "Authentication failed: the token is another user's; connect again to be somebody else")
	}
	s.renewed(who)
	s.checkKey()
	ans := answer{}
	if !who.Expires.IsZero() {
		ans.Expires = who.Expires.UnixMilli()
	}
	return ans, nil, nil
}

// renewed lets the session go on as the same user with what it may do now.
func (s *session) renewed(who identity) {
	before := s.identity.Swap(&who)
	if before != nil && before.Admin && !who.Admin {
		s.leaveForeign()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	if s.expiry != nil {
		s.expiry.Stop()
		s.expiry = nil
	}
	if who.Expires.IsZero() {
		return
	}
	left := time.Until(who.Expires)
	s.wake(max(left-warning, left/2), s.expiring)
}

// leaveForeign leaves the jobs that only an admin may watch.
func (s *session) leaveForeign() {
	s.mu.Lock()
	var foreign []*watch
	for _, w := range s.watches {
		if w.foreign {
			foreign = append(foreign, w)
		}
	}
	s.mu.Unlock()
	for _, w := range foreign {
		w.end()
		s.forget(w)
		s.complain(complaint{refused: *refuse(codeNotFound, "there is no such job"), JobID: w.job})
	}
}

// expiring warns, and sets the time of the end. That the time is not near yet means
// that a clock was set back, or that a renewal came in between.
func (s *session) expiring() {
	s.mu.Lock()
	who := s.who()
	left := time.Until(who.Expires)
	current := !s.closed && !who.Expires.IsZero()
	switch {
	case !current:
	case left > warning:
		current = false
		s.wake(left-warning, s.expiring)
	default:
		s.wake(left, s.expire)
	}
	s.mu.Unlock()
	if current && left > 0 {
		s.emit(eventExpiring, ending{ExpiresAt: who.Expires.UnixMilli(), InMs: left.Milliseconds()})
	}
}

// wake calls f in a while, in place of what was to be called. s.mu is held.
func (s *session) wake(in time.Duration, f func()) {
	if s.expiry != nil {
		s.expiry.Stop()
	}
	s.expiry = time.AfterFunc(in, f)
}

// expire says goodbye, unless the time has not come: the client stays away until it
// has a new token.
func (s *session) expire() {
	if expires := s.who().Expires; expires.IsZero() || time.Until(expires) > 0 {
		s.expiring()
		return
	}
	s.dismiss("Authentication expired: connect again with a new token")
}

// dismiss ends the session of somebody who may not be here any more.
func (s *session) dismiss(why string) {
	s.log.Info("session ended", "why", why)
	s.complain(complaint{refused: *refuse(codeUnauthorized, "%s", why)})
	s.wire.Dismiss()
}
