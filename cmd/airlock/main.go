// Command airlock is the administrator's command: it runs the service, asks it what it does, and says what
// this host can run.
//
// It owns the command line: arguments, tables, JSON, exit codes, the terminal. What a command means is done
// elsewhere: by the service (through package client), by supervisor, doctor, config.
//
// Exit codes: 0; 1 for a mistake of the administrator's or the image's, wrong usage included; 2 for a failure of
// the system; `run` and `shell` end with their command's own status.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/urfave/cli/v3"

	"github.com/airlock-ci/airlock/api"
	"github.com/airlock-ci/airlock/client"
	"github.com/airlock-ci/airlock/config"
	"github.com/airlock-ci/airlock/internal/fault"
)

// version is set by the linker, see the Makefile.
var version = "dev"

func main() { os.Exit(run(context.Background(), os.Args, os.Stderr)) }

// run runs the command line and returns the exit code.
func run(ctx context.Context, args []string, stderr io.Writer) int {
	err := rootCommand().Run(ctx, args)
	var status exitStatus
	switch {
	case err == nil:
		return fault.ExitOK
	case errors.As(err, &status):
		return int(status)
	}
	for _, line := range messages(err) {
		_, _ = fmt.Fprintf(stderr, "airlock: %s\n", printable(line))
	}
	return fault.ExitCode(err)
}

// messages are the lines to print for an error: one, unless it is about the many mistakes of a configuration.
func messages(err error) []string {
	var wrong *config.Error
	if errors.As(err, &wrong) {
		return strings.Split(err.Error(), "\n")
	}
	return []string{err.Error()}
}

// exitStatus ends the command with a status and without a message.
type exitStatus int

func (s exitStatus) Error() string { return fmt.Sprintf("exit status %d", int(s)) }

func rootCommand() *cli.Command {
	root := &cli.Command{
		Name:  "airlock",
		Usage: "run GitLab CI jobs in sandboxes, and look after them",
		Flags: []cli.Flag{
			&cli.StringFlag{
				Name:    "socket",
				Usage:   "the service's `PATH`",
				Value:   api.AdministratorSocket,
				Sources: cli.EnvVars("AIRLOCK_SOCKET"),
			},
		},
		Commands: []*cli.Command{
			runCommand(), psCommand(), inspectCommand(), logsCommand(), shellCommand(), imageCommand(),
			reapCommand(), policyCommand(), configCommand(), doctorCommand(), versionCommand(), serveCommand(), serviceCommand(),
		},
		// Errors are printed once, by run.
		ExitErrHandler:  func(context.Context, *cli.Command, error) {},
		HideHelpCommand: true,
	}
	// Never fails: the function does not.
	_ = root.Walk(func(c *cli.Command) error {
		c.OnUsageError = usageError
		if c.Action == nil {
			c.Action = showHelp
		}
		return nil
	})
	return root
}

// usageError is a mistake on the command line, in one line.
func usageError(_ context.Context, c *cli.Command, err error, _ bool) error {
	return fault.WithRemedy(fault.Adminf("%w", err), "see "+c.FullName()+" --help")
}

// showHelp is what a command does that has only commands of its own.
func showHelp(ctx context.Context, c *cli.Command) error {
	if c.Args().Present() {
		return usageError(ctx, c, fmt.Errorf("unknown command %q", c.Args().First()), false)
	}
	if c.Root() == c {
		return cli.ShowRootCommandHelp(c)
	}
	return cli.ShowSubcommandHelp(c)
}

// arguments returns a command's arguments, at least and at most so many; most < 0 is no bound.
func arguments(ctx context.Context, c *cli.Command, least, most int) ([]string, error) {
	args := c.Args().Slice()
	if len(args) < least || (most >= 0 && len(args) > most) {
		return nil, usageError(ctx, c, fmt.Errorf("want %s %s", c.FullName(), c.ArgsUsage), true)
	}
	return args, nil
}

// connect checks a command's arguments, as arguments does, and dials its service, which the caller closes.
func connect(ctx context.Context, c *cli.Command, least, most int) (*api.Client, []string, error) {
	args, err := arguments(ctx, c, least, most)
	if err != nil {
		return nil, nil, err
	}
	service, err := dial(ctx, c)
	return service, args, err
}

// dial connects to the service that the command line names.
func dial(ctx context.Context, c *cli.Command) (*api.Client, error) {
	return client.Dial(ctx, c.String("socket"))
}

// jsonFlag is the flag of every command that lists something.
func jsonFlag() cli.Flag {
	return &cli.BoolFlag{Name: "json", Usage: "print JSON"}
}
