package control

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"

	"github.com/airlock-ci/airlock/internal/identity"
)

// Args is the command line with which a supervisor starts every executor:
//
//	EXECUTOR --config FILE --tls-dir DIR --lock FILE
//
// Beside it the executor gets a short explicit environment (package supervisor, executorEnvironment).
type Args struct {
	// Config is the path of the configuration file.
	Config string
	// TLSDir holds the certificates of both ends (see EnsureTLS).
	TLSDir string
	// Lock is the file that an executor holds locked for as long as it lives, with its identity in it: two
	// executors never share a journal, and a supervisor finds the executor that its predecessor left.
	Lock string
}

// CommandLine returns the arguments, without the program's name.
func (a Args) CommandLine() []string {
	return []string{"--config", a.Config, "--tls-dir", a.TLSDir, "--lock", a.Lock}
}

// ParseArgs parses the arguments, without the program's name. All three are required.
func ParseArgs(arguments []string) (Args, error) {
	var a Args
	flags := flag.NewFlagSet("airlock-executor", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	flags.StringVar(&a.Config, "config", "", "the configuration file")
	flags.StringVar(&a.TLSDir, "tls-dir", "", "the directory of the certificates")
	flags.StringVar(&a.Lock, "lock", "", "the file to hold locked")
	if err := flags.Parse(arguments); err != nil {
		return Args{}, err
	}
	if flags.NArg() > 0 {
		return Args{}, fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	if a.Config == "" || a.TLSDir == "" || a.Lock == "" {
		return Args{}, errors.New("--config, --tls-dir and --lock are all required")
	}
	return a, nil
}

// Begin makes this process the one executor: it takes the lock and detaches the process from what go-plugin
// lets it inherit. Call it before the backend touches any state; release the lock last of all. A process that
// no supervisor started is refused.
func Begin(a Args) (*identity.Lock, error) {
	cookie := Handshake()
	if os.Getenv(cookie.MagicCookieKey) != cookie.MagicCookieValue {
		return nil, errors.New("the executor is no command: \"airlock serve\" starts it")
	}
	lock, err := identity.Acquire(a.Lock)
	if errors.Is(err, identity.ErrLocked) {
		return nil, fmt.Errorf("another executor lives: %w", err)
	}
	if err != nil {
		return nil, err
	}
	if err := detach(); err != nil {
		lock.Release()
		return nil, err
	}
	return lock, nil
}
