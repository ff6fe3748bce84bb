package embedded

import (
	"context"
	"crypto/rand"
	"fmt"
	"time"

	"github.com/alicebob/miniredis/v2"

	"github.com/sluicehq/sluice/config"
)

// expiryTick is how often miniredis is told that time has passed: by itself it
// never lets a key expire.
const expiryTick = 100 * time.Millisecond

func runMemory(ctx context.Context, ready func(Instance)) error {
	m := miniredis.NewMiniRedis()
	// It listens on loopback, where other users of the machine reach it too.
	password := rand.Text()
	m.RequireAuth(password)
	if err := m.StartAddr("127.0.0.1:0"); err != nil {
		return fmt.Errorf("start the embedded Redis: %w", err)
	}
	defer m.Close()
	o := config.RedisDefaults()
	o.Addrs, o.Password = []string{m.Addr()}, password
	ready(Instance{Name: Memory, Redis: o})
	ticker := time.NewTicker(expiryTick)
	defer ticker.Stop()
	last := time.Now()
	for {
		select {
		case <-ctx.Done():
			return nil
		case now := <-ticker.C:
			m.FastForward(now.Sub(last))
			last = now
		}
	}
}
