package job

import (
	_ "embed"

	"github.com/redis/go-redis/v9"
)

// Every script touches the keys of one slot. They have no flags and call nothing newer than Redis 6, so that
// miniredis and Valkey run them too.
var (
	//go:embed create.lua
	createLua string
	//go:embed begin.lua
	beginLua string
	//go:embed append.lua
	appendLua string
	//go:embed seed.lua
	seedLua string
	//go:embed release.lua
	releaseLua string
	//go:embed return.lua
	returnLua string
	//go:embed cancel.lua
	cancelLua string
	//go:embed end.lua
	endLua string
	//go:embed reclaim.lua
	reclaimLua string
	//go:embed clock.lua
	clockLua string
	//go:embed withdraw.lua
	withdrawLua string
	//go:embed admit.lua
	admitLua string
	//go:embed seat.lua
	seatLua string
	//go:embed gateways.lua
	gatewaysLua string

	createScript   = redis.NewScript(createLua)
	beginScript    = redis.NewScript(beginLua)
	appendScript   = redis.NewScript(appendLua)
	seedScript     = redis.NewScript(seedLua)
	releaseScript  = redis.NewScript(releaseLua)
	returnScript   = redis.NewScript(returnLua)
	cancelScript   = redis.NewScript(cancelLua)
	endScript      = redis.NewScript(endLua)
	reclaimScript  = redis.NewScript(reclaimLua)
	clockScript    = redis.NewScript(clockLua)
	withdrawScript = redis.NewScript(withdrawLua)
	admitScript    = redis.NewScript(admitLua)
	seatScript     = redis.NewScript(seatLua)
	gatewaysScript = redis.NewScript(gatewaysLua)
)
