package sandbox

import (
	"reflect"
	"unsafe"

	"github.com/sluicehq/sluice/host/manifest"
	"github.com/tetratelabs/wazero/api"
	"github.com/tetratelabs/wazero/sys"
)

// stackShare is the part of its memory limit that a guest's machine stack may
// take on top of it.
const stackShare = 4

const minStack = 1 << 20

// stackOf finds the stack of a function that is about to be called. The engine
// keeps it on Go's heap, doubles it as a guest recurses, and stops at 50 MB and
// more, whatever the memory limit is. There is no interface to it, so it is
// found by reflection; a test notices when an engine no longer has the field.
// Only the goroutine that runs the function may look at it.
func stackOf(f api.Function) *[]byte {
	v := reflect.ValueOf(f)
	if v.Kind() != reflect.Pointer || v.Elem().Kind() != reflect.Struct {
		return nil
	}
	stack := v.Elem().FieldByName("stack")
	if !stack.IsValid() || stack.Type() != reflect.TypeFor[[]byte]() {
		return nil
	}
	return (*[]byte)(unsafe.Pointer(stack.UnsafeAddr()))
}

// A stack that is doubled as needed may be twice as long as what is on it.
const slack = 2

// stackLimit is how much of a stack a guest may fill.
func stackLimit(m *manifest.Manifest) int64 { return max(m.Limits.Memory/stackShare, minStack) }

// checkStack ends the call of a guest whose stack has grown too large. It is
// called whenever a guest comes back to the host: between two such moments a
// guest can't hold on to anything for long.
func (c *call) checkStack() {
	if c.stack != nil && len(*c.stack) > c.deepest {
		c.tooDeep()
	}
}

func (c *call) tooDeep() {
	c.stopWith(pluginError("recursed until its stack was larger than %d bytes", stackLimit(c.plugin.m)))
	panic(sys.NewExitError(sys.ExitCodeContextCanceled))
}
