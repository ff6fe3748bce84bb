package sandbox

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"log/slog"
	"runtime"
	"time"

	"github.com/sluicehq/sluice/proto/guest"
	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
	"github.com/tetratelabs/wazero/sys"
)

// WASI for guests: clocks, random numbers, sleep, output for the log, and no
// state, so that there is nothing here that one job could leave for the next.
// Everything else answers that it isn't there.
//
// https://github.com/WebAssembly/WASI/blob/main/legacy/preview1/docs.md

// wasiErrno is an error in WASI's own numbering.
type wasiErrno uint32

const (
	wasiOK     wasiErrno = 0
	wasiBadF   wasiErrno = 8
	wasiFault  wasiErrno = 21
	wasiInval  wasiErrno = 28
	wasiIO     wasiErrno = 29
	wasiNoSys  wasiErrno = 52
	wasiNotSup wasiErrno = 58
	wasiSPipe  wasiErrno = 70
)

const (
	maxIovecs        = 1024
	maxSubscriptions = 64
	charDevice       = 2
	rightRead        = 1 << 1
	rightWrite       = 1 << 6
)

// wasiFunc implements one function; arguments as on the stack.
type wasiFunc func(c *call, mem api.Memory, arg []uint64) wasiErrno

// wasi lists all of it: the parameters, one letter each (i: i32, l: i64), and
// what is done. Where nothing is, stub answers.
var wasi = map[string]struct {
	params string
	f      wasiFunc
}{
	"args_get": {"ii", nothing}, "args_sizes_get": {"ii", noSizes},
	"environ_get": {"ii", nothing}, "environ_sizes_get": {"ii", noSizes},
	"clock_res_get": {"ii", clockRes}, "clock_time_get": {"ili", clockTime},
	"random_get": {"ii", randomGet}, "poll_oneoff": {"iiii", pollOneoff}, "sched_yield": {"", nothing},
	"fd_write": {"iiii", fdWrite}, "fd_read": {"iiii", fdRead}, "fd_close": {"i", onStdio},
	"fd_fdstat_get": {"ii", fdstatGet}, "fd_fdstat_set_flags": {"ii", onStdio}, "fd_seek": {"ilii", fdSeek},

	"fd_advise": {"illi", noFile}, "fd_allocate": {"ill", noFile}, "fd_datasync": {"i", noFile},
	"fd_fdstat_set_rights": {"ill", noFile}, "fd_filestat_get": {"ii", noFile}, "fd_filestat_set_size": {"il", noFile},
	"fd_filestat_set_times": {"illi", noFile}, "fd_pread": {"iiili", noFile}, "fd_prestat_get": {"ii", noFile},
	"fd_prestat_dir_name": {"iii", noFile}, "fd_pwrite": {"iiili", noFile}, "fd_readdir": {"iiili", noFile},
	"fd_renumber": {"ii", noFile}, "fd_sync": {"i", noFile}, "fd_tell": {"ii", noFile},
	"path_create_directory": {"iii", noFile}, "path_filestat_get": {"iiiii", noFile}, "path_filestat_set_times": {"iiiilli", noFile},
	"path_link": {"iiiiiii", noFile}, "path_open": {"iiiiillii", noFile}, "path_readlink": {"iiiiii", noFile},
	"path_remove_directory": {"iii", noFile}, "path_rename": {"iiiiii", noFile}, "path_symlink": {"iiiii", noFile},
	"path_unlink_file": {"iii", noFile},
	"sock_accept":      {"iii", noFile}, "sock_recv": {"iiiiii", noFile}, "sock_send": {"iiiii", noFile}, "sock_shutdown": {"ii", noFile},
	"proc_raise": {"i", func(*call, api.Memory, []uint64) wasiErrno { return wasiNoSys }},
}

const wasiExit = "proc_exit" // the one without a result

func defineWASI(ctx context.Context, r wazero.Runtime) error {
	b := r.NewHostModuleBuilder(guest.WASI)
	i32 := []api.ValueType{api.ValueTypeI32}
	for name, w := range wasi {
		params := make([]api.ValueType, len(w.params))
		for i, letter := range w.params {
			params[i] = api.ValueTypeI32
			if letter == 'l' {
				params[i] = api.ValueTypeI64
			}
		}
		if len(params) == 0 {
			params = nil
		}
		b.NewFunctionBuilder().WithGoModuleFunction(api.GoModuleFunc(func(ctx context.Context, m api.Module, stack []uint64) {
			c := callOf(ctx)
			if c == nil {
				stack[0] = uint64(wasiNoSys)
				return
			}
			c.checkStack()
			stack[0] = uint64(w.f(c, m.Memory(), stack))
		}), params, i32).Export(name)
	}
	b.NewFunctionBuilder().WithGoModuleFunction(api.GoModuleFunc(func(_ context.Context, _ api.Module, stack []uint64) {
		panic(sys.NewExitError(ptr(stack[0])))
	}), i32, nil).Export(wasiExit)
	_, err := b.Instantiate(ctx)
	return err
}

func nothing(*call, api.Memory, []uint64) wasiErrno { return wasiOK }

func noFile(*call, api.Memory, []uint64) wasiErrno { return wasiBadF }

func noSizes(_ *call, mem api.Memory, arg []uint64) wasiErrno {
	if !mem.WriteUint32Le(ptr(arg[0]), 0) || !mem.WriteUint32Le(ptr(arg[1]), 0) {
		return wasiFault
	}
	return wasiOK
}

// processStart anchors the monotonic clock to the wall clock: a frozen guest
// remembers the time of its initialisation, in an earlier process perhaps or
// before a reboot, and time must not have gone back since.
var processStart = time.Now()

// clockNow reads a clock: 0 is the wall clock, 1 the monotonic one.
func clockNow(id uint32) (int64, bool) {
	switch id {
	case 0:
		return time.Now().UnixNano(), true
	case 1:
		return processStart.UnixNano() + time.Since(processStart).Nanoseconds(), true
	}
	return 0, false
}

func clockRes(_ *call, mem api.Memory, arg []uint64) wasiErrno {
	if _, ok := clockNow(ptr(arg[0])); !ok {
		return wasiNotSup
	}
	if !mem.WriteUint64Le(ptr(arg[1]), 1) {
		return wasiFault
	}
	return wasiOK
}

func clockTime(_ *call, mem api.Memory, arg []uint64) wasiErrno {
	now, ok := clockNow(ptr(arg[0]))
	if !ok {
		return wasiNotSup
	}
	if !mem.WriteUint64Le(ptr(arg[2]), uint64(now)) {
		return wasiFault
	}
	return wasiOK
}

// randomGet works in pieces, so that a guest that wants all its memory filled
// can still be stopped.
func randomGet(c *call, mem api.Memory, arg []uint64) wasiErrno {
	b, ok := mem.Read(ptr(arg[0]), ptr(arg[1]))
	if !ok {
		return wasiFault
	}
	for len(b) > 0 {
		if c.Err() != nil {
			return wasiIO
		}
		if len(b) > 256<<10 {
			runtime.Gosched()
		}
		n, err := rand.Read(b[:min(len(b), 256<<10)])
		if err != nil {
			return wasiIO
		}
		c.spendOn(n)
		b = b[n:]
	}
	return wasiOK
}

func onStdio(_ *call, _ api.Memory, arg []uint64) wasiErrno {
	if ptr(arg[0]) > 2 {
		return wasiBadF
	}
	return wasiOK
}

func fdSeek(_ *call, _ api.Memory, arg []uint64) wasiErrno {
	if ptr(arg[0]) > 2 {
		return wasiBadF
	}
	return wasiSPipe
}

func fdstatGet(_ *call, mem api.Memory, arg []uint64) wasiErrno {
	if ptr(arg[0]) > 2 {
		return wasiBadF
	}
	var b [24]byte
	b[0] = charDevice
	rights := uint64(rightWrite)
	if ptr(arg[0]) == 0 {
		rights = rightRead
	}
	binary.LittleEndian.PutUint64(b[8:], rights)
	if !mem.Write(ptr(arg[1]), b[:]) {
		return wasiFault
	}
	return wasiOK
}

// fdRead: standard input is at its end.
func fdRead(_ *call, mem api.Memory, arg []uint64) wasiErrno {
	if ptr(arg[0]) != 0 {
		return wasiBadF
	}
	if !mem.WriteUint32Le(ptr(arg[3]), 0) {
		return wasiFault
	}
	return wasiOK
}

func fdWrite(c *call, mem api.Memory, arg []uint64) wasiErrno {
	level := slog.LevelInfo
	switch ptr(arg[0]) {
	case 1:
	case 2:
		level = slog.LevelWarn
	default:
		return wasiBadF
	}
	n := ptr(arg[2])
	if n > maxIovecs {
		return wasiInval
	}
	vecs, ok := mem.Read(ptr(arg[1]), n*8)
	if !ok {
		return wasiFault
	}
	c.spendOn(decoding * len(vecs))
	total := uint32(0)
	for ; len(vecs) > 0; vecs = vecs[8:] {
		b, ok := mem.Read(binary.LittleEndian.Uint32(vecs), binary.LittleEndian.Uint32(vecs[4:]))
		if !ok {
			return wasiFault
		}
		if err := c.stdio.write(level, b); err != nil {
			return wasiIO
		}
		total += uint32(len(b))
	}
	if !mem.WriteUint32Le(ptr(arg[3]), total) {
		return wasiFault
	}
	return wasiOK
}

// pollOneoff waits for the first of some clocks. Descriptors are ready at once,
// or wrong.
func pollOneoff(c *call, mem api.Memory, arg []uint64) wasiErrno {
	n := ptr(arg[2])
	if n == 0 || n > maxSubscriptions {
		return wasiInval
	}
	subs, ok := mem.Read(ptr(arg[0]), n*48)
	if !ok {
		return wasiFault
	}
	if _, ok := mem.Read(ptr(arg[1]), n*32); !ok {
		return wasiFault
	}
	var events []byte
	event := func(sub []byte, errno wasiErrno) {
		e := make([]byte, 32)
		copy(e, sub[:8])
		binary.LittleEndian.PutUint16(e[8:], uint16(errno))
		e[10] = sub[8]
		events = append(events, e...)
	}
	first := time.Duration(-1)
	waits := make([]time.Duration, n)
	for i := range waits {
		sub := subs[i*48 : i*48+48]
		waits[i] = -1
		switch tag := sub[8]; tag {
		case 0:
			d, errno := clockWait(sub)
			if errno != wasiOK {
				event(sub, errno)
				continue
			}
			waits[i] = d
			if first < 0 || d < first {
				first = d
			}
		case 1, 2: // to read, to write
			if fd := binary.LittleEndian.Uint32(sub[16:]); fd > 2 || (fd == 0) != (tag == 1) {
				event(sub, wasiBadF)
			} else {
				event(sub, wasiOK)
			}
		default:
			return wasiInval
		}
	}
	if len(events) == 0 {
		c.sleep(first)
	} else {
		first = 0
	}
	for i, d := range waits {
		if d >= 0 && d <= first {
			event(subs[i*48:i*48+48], wasiOK)
		}
	}
	if !mem.Write(ptr(arg[1]), events) || !mem.WriteUint32Le(ptr(arg[3]), uint32(len(events)/32)) {
		return wasiFault
	}
	return wasiOK
}

// clockWait is how long a subscription to a clock has to wait.
func clockWait(sub []byte) (time.Duration, wasiErrno) {
	now, ok := clockNow(binary.LittleEndian.Uint32(sub[16:]))
	if !ok {
		return 0, wasiNotSup
	}
	timeout := binary.LittleEndian.Uint64(sub[24:])
	d := time.Duration(min(timeout, 1<<62))
	if binary.LittleEndian.Uint16(sub[40:])&1 != 0 { // a point in time
		d -= time.Duration(now)
	}
	return max(d, 0), wasiOK
}
