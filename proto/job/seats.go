package job

import (
	"context"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"
)

// Seats count the sockets of each user over all gateways. A gateway says how many of them it has, and forgets none:
// after a restart of Redis, or after it was taken for gone, it says so again (see Beat). Safe for concurrent use, but
// what is said about one owner comes in the order in which the calls are made: one at a time.
type Seats struct {
	s       *Store
	gateway string
}

const (
	// seatsGone is how long a gateway may be without a heartbeat before its sockets count no more.
	seatsGone = 15 * time.Second
	// SeatsBeat is how often Beat is to be called.
	SeatsBeat = 4 * time.Second
	// seatsTTL is how long what was said about an owner is kept.
	seatsTTL = 3 * time.Hour
	// SeatsRenew is how often every count is to be said again.
	SeatsRenew = time.Hour
)

// NewSeats returns the seats of one gateway, which has the id for as long as it runs.
func NewSeats(s *Store, gateway string) *Seats { return &Seats{s: s, gateway: gateway} }

// Take says that the owner now has so many sockets here, one more than before, unless there are then more than most
// over all gateways: false. It is one round trip, but for an owner who has no room: then gateways that are gone are
// looked for first, and their sockets forgotten.
func (s *Seats) Take(ctx context.Context, owner string, here, most int) (bool, error) {
	others, err := s.say(ctx, owner, here, most, nil)
	if err != nil || others == nil {
		return err == nil, err
	}
	gone, err := s.beat(ctx, others)
	if err != nil || len(gone.ids) == 0 {
		return false, err
	}
	others, err = s.say(ctx, owner, here, most, gone.ids)
	return err == nil && others == nil, err
}

// Say repeats how many sockets owners have here, 0 for those who have none any more.
func (s *Seats) Say(ctx context.Context, here map[string]int) error {
	_, err := s.s.rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
		for owner, n := range here {
			key := seatsKey(owner)
			if n == 0 {
				p.HDel(ctx, key, s.gateway)
				continue
			}
			p.HSet(ctx, key, s.gateway, n)
			p.PExpire(ctx, key, seatsTTL)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("say who is connected: %w", err)
	}
	return nil
}

// Beat tells that this gateway lives. False: Redis doesn't know it, or not any more, and every count is to be said again.
func (s *Seats) Beat(ctx context.Context) (known bool, err error) {
	r, err := s.beat(ctx, nil)
	return r.known, err
}

// Leave takes the gateway away: its sockets count no more.
func (s *Seats) Leave(ctx context.Context) error {
	if err := s.s.rdb.ZRem(ctx, gatewaysKey, s.gateway).Err(); err != nil {
		return fmt.Errorf("take the gateway away: %w", err)
	}
	return nil
}

// say returns the other gateways of an owner who has no room, nil when there is some.
func (s *Seats) say(ctx context.Context, owner string, here, most int, gone []string) ([]string, error) {
	args := []any{s.gateway, here, most, seatsTTL.Milliseconds()}
	for _, id := range gone {
		args = append(args, id)
	}
	r, err := seatScript.Run(ctx, s.s.rdb, []string{seatsKey(owner)}, args...).StringSlice()
	switch {
	case err != nil:
		return nil, fmt.Errorf("take a seat: %w", err)
	case len(r) == 1 && r[0] == "ok":
		return nil, nil
	case len(r) >= 1 && r[0] == "full":
		return r[1:], nil
	}
	return nil, fmt.Errorf("take a seat: %w: %v", errProtocol, r)
}

type beaten struct {
	known bool
	ids   []string // of the asked for, those that are gone
}

func (s *Seats) beat(ctx context.Context, asked []string) (beaten, error) {
	args := []any{s.gateway, seatsGone.Milliseconds(), time.Hour.Milliseconds()}
	for _, id := range asked {
		args = append(args, id)
	}
	r, err := gatewaysScript.Run(ctx, s.s.rdb, []string{gatewaysKey}, args...).StringSlice()
	if err != nil {
		return beaten{}, fmt.Errorf("heartbeat of the gateway: %w", err)
	}
	if len(r) == 0 {
		return beaten{}, fmt.Errorf("heartbeat of the gateway: %w: %v", errProtocol, r)
	}
	return beaten{known: r[0] == "1", ids: r[1:]}, nil
}
