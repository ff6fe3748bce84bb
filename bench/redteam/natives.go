package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/sluicehq/sluice/host/egress"
	"github.com/sluicehq/sluice/host/manifest"
	"github.com/sluicehq/sluice/host/native"
	"github.com/sluicehq/sluice/host/native/box"
	"github.com/sluicehq/sluice/sdk"
)

// nativeAttack is what a native plugin tries against its machine.
type nativeAttack struct {
	model, prompt string
	guarantee     string // of its box, that says it comes to nothing
}

// natives are the attacks of the native plugin, by their names.
func (f *field) natives() []attack {
	tcp := strings.TrimPrefix(f.canary.URL, "http://")
	var all []attack
	for _, a := range []struct {
		name string
		nativeAttack
	}{
		{"native: file of the host", nativeAttack{"read", filepath.Join(f.dir, "key"), box.Files}},
		{"native: /etc/passwd", nativeAttack{"read", "/etc/passwd", box.Files}},
		{"native: environment of the host", nativeAttack{"read", fmt.Sprintf("/proc/%d/environ", os.Getpid()), box.Files}},
		{"native: connection to 127.0.0.1", nativeAttack{"dial", "tcp " + tcp, box.Network}},
		{"native: connection to 169.254.169.254", nativeAttack{"dial", "tcp 169.254.169.254:80", box.Network}},
		{"native: unix socket of a service", nativeAttack{"dial", "unix " + filepath.Join(f.dir, "service"), box.Sockets}},
		{"native: filling the disk", nativeAttack{"fill", ". /tmp /var/tmp /dev/shm " + f.dir, box.Files}},
		{"native: descriptors", nativeAttack{"open", "", ""}},
		{"native: memory bomb", nativeAttack{"grow", "", box.Memory}},
		{"native: fork bomb", nativeAttack{"multiply", "", box.Tasks}},
	} {
		all = append(all, attack{name: a.name, native: &a.nativeAttack})
	}
	return all
}

// prepareNative builds the native intruder and what it is after.
func (f *field) prepareNative(ctx context.Context) (err error) {
	if err := os.WriteFile(filepath.Join(f.dir, "key"), []byte(key), 0o644); err != nil {
		return err
	}
	service, err := net.Listen("unix", filepath.Join(f.dir, "service"))
	if err != nil {
		return err
	}
	f.closers = append(f.closers, service.Close)
	f.intruder, err = manifest.Build(ctx, filepath.Join(here(), "intruder", manifest.File), f.dir+"/intruder")
	return err
}

// nativeAttacker makes one attack in a process of its own.
func (f *field) nativeAttacker(ctx context.Context, o options, a *nativeAttack) outcome {
	r := outcome{late: -1, runs: 1}
	level, did, err := f.intrude(ctx, o, a)
	switch e := sdk.AsError(did); {
	case err != nil:
		r.escape = err
	case did == nil && a.guarantee != "" && !level.Gives(a.guarantee):
		r.ended, r.unable = fmt.Sprintf("not refused on this machine, whose boxes don't guarantee %q", a.guarantee), true
	case did == nil:
		r.escape = fmt.Errorf("it did it, in a box of %s", level)
	default:
		r.ended = fmt.Sprintf("refused: %.90s", strings.ReplaceAll(e.Message, "\n", "; "))
	}
	return r
}

// intrude says what became of an attack, in which box; err is what kept it from
// being made.
func (f *field) intrude(ctx context.Context, o options, a *nativeAttack) (level box.Level, did, err error) {
	gate, err := egress.New(f.intruder, egress.Options{Log: f.log})
	if err != nil {
		return level, nil, err
	}
	defer gate.Close()
	p, err := native.Start(ctx, f.intruder, native.Options{
		Log: f.log, CacheDir: f.dir + "/native", RunDir: f.dir, Egress: gate, Box: f.box, UsageInterval: 50 * time.Millisecond,
	})
	if err != nil {
		return level, nil, err
	}
	ended := make(chan error, 1)
	go func() { ended <- p.Run(context.WithoutCancel(ctx)) }()
	level = p.State().Box
	limited, cancel := context.WithTimeoutCause(ctx, o.deadline+stuck/2, tooLong)
	defer cancel()
	did = p.Provider().Generate(limited, ask(a.model, a.prompt), func(sdk.Chunk) error { return nil })
	if death := p.State().Death; did != nil && death != nil {
		did = death // tells more
	}
	now, stop := context.WithCancel(context.Background())
	stop() // nothing is to be waited for
	return level, did, errors.Join(p.Close(now), <-ended)
}
