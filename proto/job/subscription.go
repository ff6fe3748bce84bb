package job

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"syscall"
	"time"

	"github.com/redis/go-redis/v9"
)

// subscription is one pub/sub connection. receive is called by one goroutine, the rest by another; Close ends both.
type subscription interface {
	// receive tells to what comes, and calls heard for each word from Redis, until the connection ends.
	receive(ctx context.Context, to receiver, heard func()) error
	Subscribe(ctx context.Context, channels ...string) error
	Unsubscribe(ctx context.Context, channels ...string) error
	Ping(ctx context.Context, payload ...string) error
	Close() error
}

// receiver gets what a subscription receives, from one goroutine.
type receiver interface {
	// message may keep payload, and not change it; channel is only lent.
	message(channel, payload []byte)
	confirmed(channel string, on bool)
	disconnected(err error)
}

// subscribe opens a pub/sub connection. The client says where Redis is, how to dial it and who we are; its messages
// are read here, because a gateway receives tens of thousands a second and through go-redis each takes half a
// dozen allocations and four times as long. What it keeps to itself (credentials that stream in, other kinds of
// clients) is left to its own PubSub. On Cluster publications reach every master; that of channel first, whose
// publishers are there.
func subscribe(ctx context.Context, rdb redis.UniversalClient, channel string) (subscription, error) {
	c, _ := rdb.(*redis.Client)
	if cluster, ok := rdb.(*redis.ClusterClient); ok {
		node, err := cluster.MasterForKey(ctx, channel)
		if err != nil {
			return nil, err
		}
		c = node
	}
	if c == nil || c.Options().StreamingCredentialsProvider != nil {
		return pubSub{rdb.Subscribe(ctx)}, nil
	}
	o := c.Options()
	user, password := o.Username, o.Password
	switch {
	case o.CredentialsProviderContext != nil:
		var err error
		if user, password, err = o.CredentialsProviderContext(ctx); err != nil {
			return nil, fmt.Errorf("credentials for Redis: %w", err)
		}
	case o.CredentialsProvider != nil:
		user, password = o.CredentialsProvider()
	}
	nc, err := o.Dialer(ctx, o.Network, o.Addr)
	if err != nil {
		return nil, err
	}
	d := &direct{nc: nc}
	if sc, ok := nc.(syscall.Conn); ok {
		d.raw, _ = sc.SyscallConn()
	}
	// What Redis answers is read by receive: a refusal ends it.
	if user == "" {
		user = "default" // as go-redis does: a Redis that asks for no password lets it in with any
	}
	if user != "default" || password != "" {
		err = d.write("AUTH", user, password)
	}
	if err == nil && o.ClientName != "" {
		err = d.write("CLIENT", "SETNAME", o.ClientName)
	}
	if err != nil {
		nc.Close()
		return nil, err
	}
	return d, nil
}

// pubSub is a subscription of go-redis.
type pubSub struct{ *redis.PubSub }

func (p pubSub) receive(ctx context.Context, to receiver, heard func()) error {
	for {
		// Without a deadline: a timeout in the middle of a message would lose the place.
		m, err := p.Receive(ctx)
		if err != nil {
			return err
		}
		heard()
		switch m := m.(type) {
		case *redis.Subscription:
			to.confirmed(m.Channel, m.Kind == "subscribe")
		case *redis.Message:
			to.message([]byte(m.Channel), []byte(m.Payload))
		}
	}
}

// direct is a connection that speaks RESP2. Messages are slices of the buffers they were read into, which are
// never used twice: one allocation serves all messages of a buffer.
type direct struct {
	nc     net.Conn
	raw    syscall.RawConn // nil if nc has no descriptor of its own (TLS)
	waited time.Time       // when read had to wait last
	buf    []byte          // buf[r:w] is not parsed yet, buf[w:] is free
	r,
	w int
}

const (
	bufferSize   = 32 << 10
	minRead      = 4 << 10
	maxBulk      = 512 << 20 // Redis's own limit
	writeTimeout = 5 * time.Second
)

func (d *direct) Close() error { return d.nc.Close() }

func (d *direct) Subscribe(_ context.Context, channels ...string) error {
	return d.write(append([]string{"SUBSCRIBE"}, channels...)...)
}

func (d *direct) Unsubscribe(_ context.Context, channels ...string) error {
	return d.write(append([]string{"UNSUBSCRIBE"}, channels...)...)
}

func (d *direct) Ping(context.Context, ...string) error { return d.write("PING") }

func (d *direct) write(args ...string) error {
	b := append(strconv.AppendInt([]byte{'*'}, int64(len(args)), 10), "\r\n"...)
	for _, a := range args {
		b = append(strconv.AppendInt(append(b, '$'), int64(len(a)), 10), "\r\n"...)
		b = append(append(b, a...), "\r\n"...)
	}
	d.nc.SetWriteDeadline(time.Now().Add(writeTimeout))
	_, err := d.nc.Write(b)
	return err
}

func (d *direct) receive(_ context.Context, to receiver, heard func()) error {
	for {
		p, n, need, err := parseReply(d.buf[d.r:d.w])
		if err != nil {
			return err
		}
		if n == 0 {
			if err := d.fill(need); err != nil {
				return err
			}
			heard()
			continue
		}
		d.r += n
		switch string(p.kind) {
		case "message":
			to.message(p.channel, p.payload)
		case "subscribe", "unsubscribe":
			to.confirmed(string(p.channel), len(p.kind) == len("subscribe"))
		}
	}
}

// fill reads more; need is how many bytes the reply at d.r takes at least.
func (d *direct) fill(need int) error {
	if free := len(d.buf) - d.w; free < minRead || len(d.buf)-d.r < need {
		fresh := make([]byte, max(bufferSize, need+minRead))
		d.w = copy(fresh, d.buf[d.r:d.w])
		d.buf, d.r = fresh, 0
	}
	n, err := d.read(d.buf[d.w:])
	d.w += n
	if n > 0 {
		return nil
	}
	return err
}

// reply is what Redis sends on a pub/sub connection.
type reply struct{ kind, channel, payload []byte }

var errRESP = errors.New("not a reply of Redis")

// parseReply reads the reply at the head of b and its length, which is 0 if there is more to come: need bytes in
// all, as far as one can tell. An error that Redis reports is returned as an error.
func parseReply(b []byte) (p reply, n, need int, err error) {
	if len(b) == 0 {
		return p, 0, 1, nil
	}
	head, at, err := line(b)
	if err != nil || at == 0 {
		return p, 0, len(b) + 1, err
	}
	switch b[0] {
	case '+':
		return reply{kind: head}, at, 0, nil
	case '-':
		return p, 0, 0, fmt.Errorf("redis: %s", head)
	case '*':
	default:
		return p, 0, 0, errRESP
	}
	count, err := strconv.Atoi(string(head))
	if err != nil || count < 2 || count > 3 {
		return p, 0, 0, errRESP
	}
	for i := range count {
		var item []byte
		if at >= len(b) {
			return p, 0, at + 1, nil
		}
		head, size, err := line(b[at:])
		if err != nil || size == 0 {
			return p, 0, len(b) + 1, err
		}
		kind := b[at]
		at += size
		switch kind {
		case ':':
			item = head
		case '$':
			bulk, err := strconv.Atoi(string(head))
			switch {
			case err != nil || bulk < -1 || bulk > maxBulk:
				return p, 0, 0, errRESP
			case bulk == -1: // nothing
			case len(b) < at+bulk+2:
				return p, 0, at + bulk + 2, nil
			case b[at+bulk] != '\r' || b[at+bulk+1] != '\n':
				return p, 0, 0, errRESP
			default:
				item = b[at : at+bulk : at+bulk]
				at += bulk + 2
			}
		default:
			return p, 0, 0, errRESP
		}
		switch i {
		case 0:
			p.kind = item
		case 1:
			p.channel = item
		case 2:
			p.payload = item
		}
	}
	return p, at, 0, nil
}

// maxLine bounds a line of the protocol; Redis's errors are the longest.
const maxLine = 4 << 10

// line reads up to the first line end: what stands between the type and it, and how much that takes, 0 if it
// isn't there yet.
func line(b []byte) (text []byte, n int, err error) {
	i := bytes.IndexByte(b[:min(len(b), maxLine)], '\n')
	switch {
	case i < 0 && len(b) >= maxLine:
		return nil, 0, errRESP
	case i < 0:
		return nil, 0, nil
	case i < 2 || b[i-1] != '\r':
		return nil, 0, errRESP
	}
	return b[1 : i-1], i + 1, nil
}
