// Command fallen is an agent that ends as soon as its guest has booted: the kernel panics for want of a first process.
package main

import (
	"os"

	"github.com/airlock-ci/airlock/isolation/agent"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == agent.GuestArgument {
		os.Exit(3)
	}
	_ = agent.BootGuest() // returns only when it fails
	os.Exit(1)
}
