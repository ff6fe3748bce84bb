package sandbox

import (
	"reflect"

	"github.com/tetratelabs/wazero/api"
	"github.com/tetratelabs/wazero/sys"
)

// stackShare is the part of its memory limit that a guest's machine stack may
// take on top of it.
const stackShare = 4

const minStack = 1 << 20

// stackOf finds the stack of a function that is about to be called. The engine
// keeps it on Go's heap, doubles it as a guest recurses, and stops at 50 MB and
// more, whatever the memory limit is. There is no interface to it, so its length
// is read by reflection; a test notices when an engine no longer has the field.
func stackOf(f api.Function) reflect.Value {
	v := reflect.ValueOf(f)
	if v.Kind() != reflect.Pointer || v.Elem().Kind() != reflect.Struct {
		return reflect.Value{}
	}
	stack := v.Elem().FieldByName("stack")
	if !stack.IsValid() || stack.Kind() != reflect.Slice || stack.Type().Elem().Kind() != reflect.Uint8 {
		return reflect.Value{}
	}
	return stack
}

// A stack that is doubled as needed may be twice as long as what is on it.
const slack = 2

// checkStack ends the call of a guest whose stack has grown too large. It is
// called whenever a guest comes back to the host: between two such moments a
// guest can't hold on to anything for long.
func (c *call) checkStack() {
	if !c.stack.IsValid() {
		return
	}
	if limit := max(c.plugin.m.Limits.Memory/stackShare, minStack); int64(c.stack.Len()) > slack*limit {
		c.stopWith(pluginError("recursed until its stack was larger than %d bytes", limit))
		panic(sys.NewExitError(sys.ExitCodeContextCanceled))
	}
}
