package executor

import (
	"context"
	"crypto/tls"
	"errors"

	goplugin "github.com/hashicorp/go-plugin"
	"github.com/rs/zerolog"
	"google.golang.org/grpc"

	"github.com/airlock-ci/airlock/api/control"
	"github.com/airlock-ci/airlock/internal/identity"
	"github.com/airlock-ci/airlock/internal/pluginlog"
)

// Options configure Serve.
type Options struct {
	Backend Backend
	Logger  zerolog.Logger
	// TLSDir holds the certificates of both ends.
	TLSDir string
}

// Serve serves the backend to its supervisor, and to callers, until it is asked to stop: by the end of ctx, by SIGTERM or by
// go-plugin's own Shutdown. It then refuses further calls, cancels those that run with the cause ErrStopping,
// waits for them a while, and returns nil. The caller still owns the backend and cleans up after it.
//
//	args, err := control.ParseArgs(os.Args[1:])
//	lock, err := control.Begin(args)            // before any state is touched
//	events := executor.NewEventLog(5000, 8<<20, os.Stderr)
//	backend := ...                             // opens the journal, recovers
//	err = executor.Serve(ctx, executor.Options{Backend: backend, Logger: zerolog.New(events), TLSDir: args.TLSDir})
//	backend.Close()                            // destroys what lives
//	events.Close()
//	lock.Release()
//
// Nothing may write to os.Stdout or os.Stderr while it runs: go-plugin owns both.
func Serve(ctx context.Context, opts Options) error {
	if opts.Backend == nil {
		return errors.New("no backend to serve")
	}
	tlsConfig, err := control.ServerTLS(opts.TLSDir)
	if err != nil {
		return err
	}
	ctx, release := untilTerminated(ctx)
	defer release()

	asked, err := identity.AwaitStop(ctx)
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	go func() {
		select {
		case <-asked:
			stop(errors.New("the supervisor asked this process to end"))
		case <-ctx.Done():
		}
	}()

	server := newServer(opts.Backend, opts.Logger)
	returned := make(chan struct{}) // go-plugin's Serve has
	stopped := make(chan struct{})  // the calls have
	started := false
	goplugin.Serve(&goplugin.ServeConfig{
		HandshakeConfig:  control.Handshake(),
		VersionedPlugins: control.ServerPlugins(controlled{server: server}),
		TLSProvider:      func() (*tls.Config, error) { return tlsConfig, nil },
		Logger:           pluginlog.New(opts.Logger.With().Str("component", "go-plugin").Logger(), nil),
		GRPCServer: func(given []grpc.ServerOption) *grpc.Server {
			grpcServer := grpc.NewServer(append(given, interceptors(opts.Logger)...)...)
			started = true
			go func() {
				defer close(stopped)
				select {
				case <-ctx.Done():
				case <-returned:
				}
				server.stop()
				grpcServer.Stop()
			}()
			return grpcServer
		},
	})
	close(returned)
	if !started {
		return errors.New("go-plugin could not make its socket: see the log")
	}
	<-stopped
	return nil
}
