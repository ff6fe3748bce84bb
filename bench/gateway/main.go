// Command gateway measures the gateway beside Node's socket.io, in one run, with
// the servers on one CPU and Redis, the publisher and the clients on another.
//
// First the transports alone, fed over a socket: Node's socket.io, the engine
// with the Socket.IO library encoding each event, and the engine with events
// encoded once. Then the gateways as they are deployed, the process `sluice
// gateway` beside node/gateway.mjs, each fed by a redis-server of its own: frames
// are written into jobs' logs and published as a host's are, the same for both.
//
// All servers of a table live at the same time, each with its clients connected
// and watching, and take turns at every phase, in several rounds: what the machine
// does in the course of a run happens to all. A figure is the median of its rounds,
// with the range of those in brackets where that matters, and "better" the median
// of what each round had as the last column's figure beside the first's. What is
// lost or reordered is added up. The CPU that waiting for one's turn takes is shown,
// too.
//
// Then some clients stop reading, and the table shows the others before and
// meanwhile; some stop until the gateway gives them up. What the clock says nothing
// of comes last: that, and the memory of idle connections.
//
// In the end it says which targets the run has met. It fails if a server of ours
// has lost or reordered anything, not for any figure.
//
// Node needs its packages: `npm ci` in bench/gateway/node. The gateways need
// redis-server.
package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// settings of a run.
type settings struct {
	conns     int
	rates     []int
	rounds    int
	seconds   float64
	broadcast int   // per second
	idle      []int // connections, for each a look at the memory of idle ones
	pin       bool
	node      string // folder of the reference servers, "" to leave them out
	sluice    string // the binary, "" to build it
	only      string
	quick     bool // the gateways' rates and broadcasts alone
	hasty     bool // nothing is waited for that only figures need
}

// pause is a time to wait for figures to be true.
func (s settings) pause(d time.Duration) time.Duration {
	if s.hasty {
		return d / 20
	}
	return d
}

func main() {
	if len(os.Args) == 2 && os.Args[1] == "serve" {
		if err := serve(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	if err := run(os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "bench gateway:", err)
		os.Exit(1)
	}
}

func run(args []string, out io.Writer) error {
	flags := flag.NewFlagSet("gateway", flag.ContinueOnError)
	s := settings{pin: canPin()}
	flags.IntVar(&s.conns, "conns", 1000, "connections")
	rates := flags.String("rates", "5000,10000,20000,50000", "events per second, one phase each")
	flags.IntVar(&s.rounds, "rounds", 5, "rounds of each phase; at most 3 of connecting, storms and clients that stop, at most 2 of the transports")
	flags.Float64Var(&s.seconds, "seconds", 3, "length of a turn, of which the first third is not counted; the transports' turns are a third as long")
	flags.IntVar(&s.broadcast, "broadcasts", 20, "broadcasts per second")
	idle := flags.String("idle", "1000,10000", "idle connections to look at the gateways' memory with, empty for none")
	flags.StringVar(&s.node, "node", "bench/gateway/node", "folder of Node's servers, empty to leave them out")
	flags.StringVar(&s.sluice, "sluice", "", "the binary; empty builds it from the current folder")
	flags.StringVar(&s.only, "only", "", "transports, gateways, or idle for the gateways' idle connections alone; empty is all")
	flags.BoolVar(&s.quick, "quick", false, "of the gateways the rates and broadcasts alone: no connecting, no storm, no clients that stop reading")
	flags.BoolVar(&s.pin, "pin", s.pin, "server on CPU 0, all else on CPU 1")
	if err := flags.Parse(args); err != nil {
		return err
	}
	var err error
	if s.rates, err = numbers(*rates); err != nil {
		return fmt.Errorf("-rates: %w", err)
	}
	if s.idle, err = numbers(*idle); err != nil {
		return fmt.Errorf("-idle: %w", err)
	}
	if os.Getenv(pinnedEnv) != "" {
		return bench(s, out)
	}
	if s.sluice == "" && s.only != "transports" { // on all CPUs
		dir, err := os.MkdirTemp("", "bench")
		if err != nil {
			return err
		}
		defer os.RemoveAll(dir)
		s.sluice = filepath.Join(dir, "sluice")
		if said, err := exec.Command("go", "build", "-o", s.sluice, ".").CombinedOutput(); err != nil {
			return fmt.Errorf("build sluice: %w\n%s", err, bytes.TrimSpace(said))
		}
		args = append(args, "-sluice", s.sluice)
	}
	if s.pin {
		return pinned(args, out)
	}
	return bench(s, out)
}

// numbers reads a list with commas.
func numbers(list string) (all []int, err error) {
	for text := range strings.SplitSeq(list, ",") {
		if text == "" {
			continue
		}
		n, err := strconv.Atoi(text)
		if err != nil {
			return nil, err
		}
		all = append(all, n)
	}
	return all, nil
}

// pinnedEnv tells the command that it runs on CPU 1 already.
const pinnedEnv = "SLUICE_BENCH_PINNED"

// pinned runs this command again, on CPU 1.
func pinned(args []string, out io.Writer) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.Command("taskset", append([]string{"-c", "1", self}, args...)...)
	cmd.Env = append(os.Environ(), pinnedEnv+"=1")
	cmd.Stdout, cmd.Stderr = out, os.Stderr
	return cmd.Run()
}

func bench(s settings, out io.Writer) error {
	if s.node != "" {
		if _, err := os.Stat(filepath.Join(s.node, "node_modules")); err != nil {
			fmt.Fprintf(out, "Node is left out: run npm ci in %s\n", s.node)
			s.node = ""
		}
	}
	fmt.Fprintf(out, "%d connections, %d rounds of %g s, servers on a CPU of their own: %v\n", s.conns, s.rounds, s.seconds, s.pin)
	var tables [][]*column
	if s.only == "" || s.only == "transports" {
		columns, err := table(out, "Transports alone", s, transports)
		if err != nil {
			return err
		}
		tables = append(tables, columns)
	}
	if s.only != "transports" {
		if _, err := exec.LookPath("redis-server"); err != nil {
			return errors.New("the gateways need redis-server on the PATH")
		}
		columns, err := table(out, "Gateways behind Redis", s, gateways)
		if err != nil {
			return err
		}
		tables = append(tables, columns)
	}
	return judge(out, tables)
}

// table measures and prints the result.
func table(out io.Writer, name string, s settings, measure func(settings) ([]*column, error)) ([]*column, error) {
	begin := time.Now()
	columns, err := measure(s)
	if err != nil {
		return nil, err
	}
	fmt.Fprintf(out, "\n%s (%.0f s)\n", name, time.Since(begin).Seconds())
	print(out, columns)
	return columns, nil
}
