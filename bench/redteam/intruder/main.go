// Command intruder is the red team's native plugin. Its models are what it
// tries against the machine it runs on, each up to a bound, so that it does no
// lasting harm where nothing stops it.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/sluicehq/sluice/sdk"
)

// How far an attack goes.
const (
	most     = 1 << 30 // bytes of memory
	children = 8
	threads  = 100 // of each
	files    = 50_000
	disk     = 64 << 20 // bytes in one place
)

func init() {
	sdk.Register(sdk.Provider{Name: "intruder", Version: "1.0.0", Models: []sdk.Model{{Name: "*"}}, Generate: generate})
}

// childVariable makes the program one of the children of its fork bomb.
const childVariable = "INTRUDER_CHILD"

func main() {
	if os.Getenv(childVariable) != "" {
		child()
		return
	}
	sdk.Main()
}

// generate emits what it has done; an error tells what stopped it.
func generate(ctx context.Context, req *sdk.Request, emit sdk.Emit) error {
	try, ok := map[string]func(context.Context, string) error{
		"read": read, "dial": dial, "grow": grow, "open": open, "fill": fill, "multiply": multiply,
	}[req.Model]
	if !ok {
		return sdk.Errorf(sdk.Invalid, "no model %q", req.Model)
	}
	if err := try(ctx, req.Prompt()); err != nil {
		return sdk.Errorf(sdk.Denied, "%v", err)
	}
	return emit(sdk.Text("did it"))
}

func read(_ context.Context, path string) error {
	_, err := os.ReadFile(path)
	return err
}

func dial(_ context.Context, to string) error {
	network, addr, _ := strings.Cut(to, " ")
	c, err := net.DialTimeout(network, addr, time.Second)
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = c.Write([]byte("GET /secrets HTTP/1.0\r\n\r\n"))
	return err
}

func grow(ctx context.Context, _ string) error {
	var all [][]byte
	for n := 0; n < most; n += 8 << 20 {
		b := make([]byte, 8<<20)
		for i := 0; i < len(b); i += 4096 {
			b[i] = 1
		}
		if all = append(all, b); ctx.Err() != nil {
			return ctx.Err()
		}
	}
	runtime.KeepAlive(all)
	return nil
}

func open(_ context.Context, _ string) error {
	var all []*os.File
	defer func() {
		for _, f := range all {
			f.Close()
		}
	}()
	for len(all) < files {
		r, w, err := os.Pipe()
		if err != nil {
			return fmt.Errorf("after %d: %w", len(all), err)
		}
		all = append(all, r, w)
	}
	return nil
}

// fill writes wherever it can, and fails where it can nowhere.
func fill(_ context.Context, dirs string) error {
	var refused error
	for dir := range strings.FieldsSeq(dirs) {
		file := filepath.Join(dir, "intruder")
		err := write(file)
		os.Remove(file)
		if err == nil {
			return nil
		}
		refused = errors.Join(refused, err)
	}
	return refused
}

// write is in small pieces, as it is the disk that is to be full.
func write(file string) error {
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	piece := make([]byte, 1<<20)
	for range disk / len(piece) {
		if _, err := f.Write(piece); err != nil {
			return err
		}
	}
	return nil
}

// multiply is a fork bomb whose children have many threads each: small, as it is
// their number that is to be limited, and not their memory. It is done when all
// of them have been there for a while.
func multiply(ctx context.Context, _ string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	for n := range children {
		cmd := exec.Command(self)
		cmd.Env = []string{childVariable + "=1"}
		out, err := cmd.StdoutPipe()
		if err == nil {
			err = cmd.Start()
		}
		if err == nil {
			_, err = io.ReadFull(out, make([]byte, 1))
		}
		if err != nil {
			return fmt.Errorf("after %d processes of %d threads: %w", n, threads, err)
		}
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(2 * time.Second):
		return nil
	}
}

// child has its threads and says so.
func child() {
	var all sync.WaitGroup
	all.Add(threads)
	for range threads {
		go func() {
			runtime.LockOSThread()
			all.Done()
			syscall.Nanosleep(&syscall.Timespec{Sec: 30}, nil)
		}()
	}
	all.Wait()
	os.Stdout.Write([]byte{1})
	time.Sleep(30 * time.Second)
}
