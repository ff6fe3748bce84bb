package gateway

import (
	"context"
	"log/slog"
)

// sessionLog names the socket and its user in what a session logs. It encodes
// them when there is something to say, which for most sockets is never.
type sessionLog struct{ s *session }

func (l sessionLog) named() slog.Handler {
	who := l.s.who()
	names := []slog.Attr{slog.String("socket", l.s.wire.ID()), slog.String("user", who.User)}
	if who.Tenant != "" {
		names = append(names, slog.String("tenant", who.Tenant))
	}
	return l.s.c.log.Handler().WithAttrs(names)
}

func (l sessionLog) Enabled(ctx context.Context, level slog.Level) bool {
	return l.s.c.log.Enabled(ctx, level)
}

func (l sessionLog) Handle(ctx context.Context, r slog.Record) error { return l.named().Handle(ctx, r) }
func (l sessionLog) WithAttrs(attrs []slog.Attr) slog.Handler        { return l.named().WithAttrs(attrs) }
func (l sessionLog) WithGroup(name string) slog.Handler              { return l.named().WithGroup(name) }
