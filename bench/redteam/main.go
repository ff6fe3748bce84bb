// Redteam lets hostile guests and hostile native plugins loose in a host, beside
// well-behaved guests, and shows what each could do: whether it was contained,
// how late it was stopped, how long the host's garbage collector waited, and
// what the neighbours felt of it, with and without the attack in the same run.
// What this machine's kernel doesn't let the host refuse to a native plugin is
// shown as that.
//
//	go run ./bench/redteam
//
// The attacks on the processor are then made on plain wazero too, without and
// with its own way of stopping a guest, each in a process that is killed when
// it hangs.
//
// It fails if an attack was not contained that the host says it contains.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"time"
)

// options of a run.
type options struct {
	neighbours int
	period     time.Duration // between two chunks of a neighbour
	deadline   time.Duration // of an attack
	only       string        // attacks whose name has this in it
	plain      bool          // attack plain wazero too
	out        io.Writer
}

func main() {
	o := options{out: os.Stdout}
	flag.IntVar(&o.neighbours, "neighbours", 50, "well-behaved streams beside each attack")
	flag.DurationVar(&o.period, "period", 20*time.Millisecond, "between two chunks of a neighbour")
	flag.DurationVar(&o.deadline, "deadline", time.Second, "of each attack")
	flag.StringVar(&o.only, "only", "", "only attacks whose name has this in it")
	flag.BoolVar(&o.plain, "plain", true, "attack plain wazero too")
	child := flag.String("child", "", "attack plain wazero in this process: used by the bench itself")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	err := error(nil)
	if *child != "" {
		err = plainChild(ctx, *child, o.deadline)
	} else {
		err = run(ctx, o)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "redteam:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options) (err error) {
	began := time.Now()
	f, err := newField(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.close()) }()
	escaped, err := attackAll(ctx, f, o)
	if err != nil {
		return err
	}
	if o.plain {
		if err := attackPlain(ctx, o); err != nil {
			return err
		}
	}
	fmt.Fprintf(o.out, "\nTook %v.\n", time.Since(began).Round(time.Second))
	if escaped > 0 {
		return fmt.Errorf("%d attacks were not contained", escaped)
	}
	return nil
}
