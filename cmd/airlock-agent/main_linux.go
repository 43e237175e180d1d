// Airlock-agent is PID 1 of every Linux sandbox. It is static, small and quick to start, because every sandbox pays
// for it; all it does is package isolation/agent's.
//
//	airlock-agent [-fd N]
//	/init [guest | warm-up]
//
// N is the inherited descriptor of the connection to the executor, 3 by default. As /init it is the first program of a
// virtual machine and makes the sandbox in it by itself.
package main

import (
	"flag"
	"fmt"
	"os"
	"syscall"

	"github.com/airlock-ci/airlock/isolation/agent"
)

func main() {
	if os.Args[0] == "/init" {
		runGuest()
	}
	fd := flag.Int("fd", 3, "inherited `descriptor` of the connection to the executor")
	flag.Parse()
	if err := run(*fd); err != nil {
		fmt.Fprintln(os.Stderr, "airlock-agent:", err)
		os.Exit(1)
	}
}

// runGuest never returns. The end of a machine's first program is the machine's.
func runGuest() {
	// The kernel prints it, as the most urgent there is, before it panics for want of a first process.
	say := func(failure error) {
		_ = os.WriteFile("/dev/kmsg", fmt.Appendf(nil, "<0>airlock-agent: %v\n", failure), 0)
	}
	life := agent.BootGuest
	if len(os.Args) > 1 {
		life = map[string]func() error{agent.GuestArgument: agent.InitGuest, agent.WarmUpArgument: agent.WarmUpGuest}[os.Args[1]]
	}
	if err := life(); err != nil {
		say(err)
	}
	os.Exit(1)
}

// run returns nil when the executor has ended the connection.
func run(fd int) error {
	// Only non-blocking descriptors use Go's poller, and with it can be closed while they are read.
	if err := syscall.SetNonblock(fd, true); err != nil {
		return fmt.Errorf("descriptor %d is no connection to the executor: %w (the agent is started by Airlock's runtimes only)", fd, err)
	}
	return agent.Serve(os.NewFile(uintptr(fd), "executor"))
}
