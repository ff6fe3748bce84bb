package queue

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// How long a task waits in a room at most before it is taken as any other: the
// room may be nobody's any more. With each task in the room it may be longer, so
// that looking at them all again costs the same, however many they are.
const (
	roomLeast = 30 * time.Second
	roomEach  = 10 * time.Millisecond
)

// Rooms decide which tasks come back from the rooms to which handlers have sent
// them with Wait. A room belongs to a queue and a name; all hosts share it. Its
// tasks come back in a fair order: one of each flow in turn, each flow's in the
// order in which they came.
//
// Next and Took are called by one goroutine, in turn, and Rung by any. None of
// them may block.
type Rooms interface {
	// Next says from which room of a queue a task may be taken now; it sets aside
	// what that task needs.
	Next(queue string) (room string, ok bool)
	// Took says what came of it: the id of the task, whose handler is called next,
	// or "" when the room is empty or Redis did not answer, which err tells.
	Took(queue, room, id string, err error)
	// Rung says that a room has got a task; "" and "" that any may have.
	Rung(queue, room string)
}

// Wait is an error with which a handler has its task wait in a room until
// Options.Rooms lets it in, here or on another host: it then runs again as if it
// had not run before. It is for a handler that can't go on for want of something
// that only some tasks need. Flow is whose turn the task takes.
func Wait(room, flow string) error { return &waitError{room, flow} }

type waitError struct{ room, flow string }

func (e *waitError) Error() string { return "waits in room " + e.room }

// CanWait reports whether Wait does what it says. It does not without
// Options.Rooms, or while asynq is on its own, and is a failure then.
func (q *Queue) CanWait() bool { return q.opt.Rooms != nil && !q.plain.Load() }

// LetIn says that Rooms.Next may have changed its mind. It costs no round trip.
func (q *Queue) LetIn() {
	if q.opt.Rooms != nil {
		q.gate.letIn("")
	}
}

// roomKey: zset of task ids by rank. turnsKey: hash, the ranks that were given
// last. Both are emptied by hosts that take from them, and expire.
func roomKey(queue, room string) string  { return "sluice:{" + queue + "}:room:" + room }
func turnsKey(queue, room string) string { return "sluice:{" + queue + "}:turns:" + room }

// park writes that a task waits in a room, in place of asynq's retry.
func (q *Queue) park(ctx context.Context, verb string, t taskID, w *waitError) *redis.Cmd {
	src := parkScript.source(ctx, q.opt.Redis, &q.flags)
	script := src.sha
	if verb == "eval" { // asynq repeats it so when the script is not known
		script = src.text
	}
	keys := []string{
		keyOf(t.queue, "t:"+t.id), keyOf(t.queue, "active"), keyOf(t.queue, "lease"), keyOf(t.queue, "scheduled"),
		roomKey(t.queue, w.room), turnsKey(t.queue, w.room),
	}
	cmd := q.settler.end(ctx, verb, script, keys,
		[]any{t.id, time.Now().UnixMilli(), w.flow, roomLeast.Milliseconds(), roomEach.Milliseconds()})
	if cmd.Err() != nil {
		return cmd
	}
	q.claims.ended(t)
	if r, err := cmd.Slice(); err == nil && len(r) == 2 {
		text, _ := r[1].(string)
		due, _ := strconv.ParseFloat(text, 64)
		q.delays.note(keys[3], time.UnixMilli(int64(due*1000)))
		if size, _ := r[0].(int64); size == 1 { // of one that is not empty they know
			if err := publish(context.Background(), q.opt.Redis, t.queue, t.queue+roomMark+w.room); err != nil {
				q.n.errors.Add(1) // the others look by themselves, later
			}
		}
	}
	q.roomRung(t.queue, w.room)
	cmd.SetVal("OK")
	return cmd
}

// roomMark stands between queue and room in what is rung.
const roomMark = " "

func (q *Queue) roomRung(queue, room string) {
	if q.opt.Rooms != nil {
		q.opt.Rooms.Rung(queue, room)
		q.gate.letIn(queue)
	}
}

// letIn makes a queue's rooms ("" = all) be asked for again.
func (g *gate) letIn(queue string) {
	for _, l := range g.order {
		if queue == "" || l.name == queue {
			l.doors.Add(1)
		}
	}
	select {
	case g.woken <- struct{}{}:
	default:
	}
}

// enter takes a task from a room of the line, if Rooms let one in.
func (g *gate) enter(ctx context.Context, l *line, args []any) (msg string, ok bool) {
	if g.rooms == nil {
		return "", false
	}
	doors := l.doors.Load()
	for {
		room, ok := g.rooms.Next(l.name)
		if !ok {
			l.shutDoors = doors
			return "", false
		}
		id, err := g.claims.enter(ctx, l, room, args)
		g.health.note(err)
		g.rooms.Took(l.name, room, id, err)
		switch {
		case err != nil:
			g.n.errors.Add(1)
			g.fails = min(g.fails+1, 5)
			g.pause(5 * time.Millisecond << g.fails)
			return "", false
		case id == "":
			continue
		case g.isStopped():
			return "", false // it goes back
		}
		g.fails = 0
		return g.claims.next(l.name)
	}
}

// enter claims the task of a room whose turn it is, and holds it for next.
func (c *claims) enter(ctx context.Context, l *line, room string, args []any) (id string, err error) {
	if len(args) < 2 {
		return "", errors.New("dequeue without arguments")
	}
	c.n.claims.Add(1)
	l.mu.Lock()
	defer l.mu.Unlock()
	keys := []string{
		roomKey(l.name, room), turnsKey(l.name, room), keyOf(l.name, "scheduled"),
		keyOf(l.name, "paused"), keyOf(l.name, "active"), keyOf(l.name, "lease"),
	}
	got, err := stringSlice(enterScript.once(ctx, c.rdb, c.flags, keys, args[0], args[1], c.owner))
	if err != nil {
		if !refused(err) {
			c.suspect(l)
		}
		return "", err
	}
	if len(got) != 2 {
		return "", nil
	}
	c.n.taken.Add(1)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.learn(l.name, got[0])
	c.held[l.name] = append(c.held[l.name], held{got[0], got[1]})
	return got[0], nil
}

// cutRing splits what was rung into a queue and, if it was for one, a room.
func cutRing(rung string) (queue, room string, ok bool) { return strings.Cut(rung, roomMark) }
