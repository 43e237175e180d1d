// Probes makes the escape probes of package probes and prints one JSON object for each. It is built statically,
// so that it runs in any root.
//
//	probes [-socket PATH] [-abstract NAME] [-address HOST:PORT] [PROBE]
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"

	"github.com/airlock-ci/airlock/testing/probes"
)

func main() {
	var targets probes.Targets
	flag.StringVar(&targets.Socket, "socket", "", "`path` of a unix socket on the host")
	flag.StringVar(&targets.Abstract, "abstract", "", "`name` of an abstract unix socket on the host")
	flag.StringVar(&targets.Address, "address", "", "TCP `address` on the host")
	nothing := flag.Bool("nothing", false, "do nothing: for probes that start themselves")
	flag.Parse()
	if *nothing {
		return
	}
	var err error
	if name := flag.Arg(0); name != "" {
		err = json.NewEncoder(os.Stdout).Encode(probes.One(name, targets))
	} else {
		err = probes.Run(context.Background(), os.Stdout, "/proc/self/exe", os.Args[1:]...)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "probes:", err)
		os.Exit(1)
	}
}
