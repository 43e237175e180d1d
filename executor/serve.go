package executor

import (
	"context"
	"errors"

	"github.com/rs/zerolog"
)

// Options configure Serve.
type Options struct {
	Backend Backend
	Logger  zerolog.Logger
	// TLSDir holds the certificates of both ends.
	TLSDir string
}

// Serve serves the backend to its supervisor, and to callers, until it is asked to stop: see control.Server. The caller
// still owns the backend and cleans up after it.
//
//	args, err := control.ParseArgs(os.Args[1:])
//	lock, err := control.Begin(args)            // before any state is touched
//	events := executor.NewEventLog(5000, 8<<20, os.Stderr)
//	backend := ...                             // opens the journal, recovers
//	err = executor.Serve(ctx, executor.Options{Backend: backend, Logger: zerolog.New(events), TLSDir: args.TLSDir})
//	backend.Close()                            // destroys what lives
//	events.Close()
//	lock.Release()
func Serve(ctx context.Context, opts Options) error {
	if opts.Backend == nil {
		return errors.New("no backend to serve")
	}
	return newServer(opts.Backend, opts.Logger).Server.Serve(ctx, opts.TLSDir)
}
