// Command airlock-driver is what GitLab Runner's custom executor calls, about twelve times a job. It holds
// the command line only; package driver does the work.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/airlock-ci/airlock/api"
	"github.com/airlock-ci/airlock/driver"
	"github.com/airlock-ci/airlock/gitlab"
)

// version is the release's; the build sets it with -ldflags "-X main.version=...".
var version = "dev"

func main() { os.Exit(call(os.Args[1:])) }

func call(args []string) int {
	env := gitlab.ReadEnvironment(os.Getenv)
	d := &driver.Driver{Version: version, Env: env, Stdout: os.Stdout, Stderr: os.Stderr}
	name, rest, err := parse(d, args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		return env.SystemFailure
	case name == "version":
		fmt.Println("airlock-driver", version)
		return 0
	}
	if d.Dir, err = os.Getwd(); err != nil {
		fmt.Fprintln(os.Stderr, "airlock:", err)
		return env.SystemFailure
	}
	d.Parent = os.Getppid()
	signals := make(chan os.Signal, 2)
	// On Windows the runner's CTRL_BREAK arrives as os.Interrupt.
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	// A runner that closed its pipes must not kill the driver: the stage has to be ended first.
	signal.Ignore(syscall.SIGPIPE)
	d.Signals = signals
	return d.Do(context.Background(), name, rest...)
}

// parse fills d from the command line and returns the call's name with its arguments.
func parse(d *driver.Driver, args []string) (name string, rest []string, err error) {
	if len(args) == 0 {
		usage(os.Stderr)
		return "", nil, errors.New("no call given")
	}
	switch args[0] {
	case "-h", "--help", "help":
		usage(os.Stdout)
		return "", nil, flag.ErrHelp
	case "-v", "--version", "version":
		return "version", nil, nil
	}
	flags := flag.NewFlagSet("airlock-driver "+args[0], flag.ContinueOnError)
	flags.Usage = func() { usage(os.Stderr) }
	flags.StringVar(&d.Socket, "socket", api.DriverSocket, "")
	flags.StringVar(&d.RunnerClass, "runner-class", "", "")
	flags.StringVar(&d.Shell, "shell", driver.DefaultShell, "")
	if err := flags.Parse(args[1:]); err != nil {
		return "", nil, err
	}
	return args[0], flags.Args(), nil
}

func usage(w io.Writer) {
	_, _ = fmt.Fprintf(w, `airlock-driver connects GitLab Runner's custom executor to the Airlock service.
GitLab Runner calls it; you only name it in the runner's config.toml:

  [[runners]]
    executor = "custom"
    [runners.custom]
      config_exec  = "/usr/local/bin/airlock-driver"
      config_args  = ["config"]
      prepare_exec = "/usr/local/bin/airlock-driver"
      prepare_args = ["prepare"]
      run_exec     = "/usr/local/bin/airlock-driver"
      run_args     = ["run"]
      cleanup_exec = "/usr/local/bin/airlock-driver"
      cleanup_args = ["cleanup"]

Options, after the word in each of the four args:
  --socket PATH         where the service listens (default %s)
  --runner-class NAME   (prepare) a name that the policy may rely on: only this configuration can set it
  --shell NAME          (config and run) on Windows: powershell, pwsh or cmd (default %s)
`, api.DriverSocket, driver.DefaultShell)
}
