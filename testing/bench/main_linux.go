// Command bench measures Airlock beside what a runner could use instead, in one run on one machine: its driver
// beside an empty program, its sandboxes beside bare containers and docker's, its jobs beside those of a driver that
// does nothing. `make bench` runs it, docs/performance.md reads it.
//
// It needs root, crun, QEMU and busybox-static, and uses dockerd when that is installed. Everything that it starts is
// its own and below a temporary directory, and goes when it ends.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/airlock-ci/airlock/internal/mountns"
)

func main() {
	log.SetFlags(0)
	log.SetPrefix("bench: ")
	n := flag.Int("rounds", 30, "measured `rounds` of every part, 1 or more")
	only := flag.String("part", "", "measure only the `parts` whose name contains this")
	asJSON := flag.Bool("json", false, "print JSON")
	flag.Parse()
	if flag.NArg() > 0 || *n < 1 {
		flag.Usage()
		os.Exit(2)
	}
	if os.Getuid() != 0 {
		log.Fatal("it makes real sandboxes: run it as root")
	}
	// crun refuses hosts with a cgroup v2 side hierarchy, which this namespace hides. It is entered once, by the
	// bench itself, so that no measured command pays for it.
	if err := mountns.Enter(); err != nil {
		log.Fatal(err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	r, err := measure(ctx, *n, *only)
	if err != nil {
		log.Fatal(err)
	}
	write := r.print
	if *asJSON {
		write = r.printJSON
	}
	if err := write(os.Stdout); err != nil {
		log.Fatal(err)
	}
}

// measure starts everything, measures part after part, or only some, and stops everything.
func measure(ctx context.Context, n int, only string) (r *report, err error) {
	b, err := start(ctx, n)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, b.close()) }()
	r = &report{machine: thisMachine(ctx), rounds: n}
	for _, part := range []struct {
		what    string
		measure func(context.Context) ([]*section, error)
	}{
		{"decisions", b.decisions},
		{"driver calls", b.driverCalls},
		{"sandboxes", b.sandboxes},
		{"virtual machines", b.machines},
		{"jobs of runner 19.4", b.callerJobs},
		{"jobs of the real runner", b.runnerJobs},
	} {
		if !strings.Contains(part.what, only) {
			continue
		}
		log.Printf("measuring %s", part.what) // on stderr: stdout has the report alone
		sections, err := part.measure(ctx)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", part.what, err)
		}
		r.sections = append(r.sections, sections...)
	}
	r.machine.LoadAfter = load()
	return r, nil
}
