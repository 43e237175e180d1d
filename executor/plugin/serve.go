package plugin

import (
	"context"
	"crypto/tls"
	"errors"
	"time"

	goplugin "github.com/hashicorp/go-plugin"
	"github.com/rs/zerolog"
	"google.golang.org/grpc"

	"github.com/airlock-ci/airlock/internal/identity"
)

// Flow control of the boundary, for both ends. A fixed window (no bandwidth estimation, which would grow it)
// bounds what one call with a slow reader holds in memory; the connection's is larger so that calls do not
// wait for each other.
const (
	StreamWindow     = 512 << 10
	ConnectionWindow = 4 << 20
)

// stopTimeout is how long the calls that run when the executor is asked to stop may take to return.
const stopTimeout = 30 * time.Second

// Options configure Serve.
type Options struct {
	Backend Backend
	Logger  zerolog.Logger
	// TLSDir holds the certificates of both ends.
	TLSDir string
}

// Serve serves the backend to the host until it is asked to stop: by the end of ctx, by SIGTERM or by
// go-plugin's own Shutdown. It then refuses further calls, cancels those that run with the cause ErrStopping,
// waits for them a while, and returns nil. The caller still owns the backend and cleans up after it.
//
//	args, err := plugin.ParseArgs(os.Args[1:])
//	lock, err := plugin.Begin(args)            // before any state is touched
//	events := plugin.NewEventLog(5000, 8<<20, os.Stderr)
//	backend := ...                             // opens the journal, recovers
//	err = plugin.Serve(ctx, plugin.Options{Backend: backend, Logger: zerolog.New(events), TLSDir: args.TLSDir})
//	backend.Close()                            // destroys what lives
//	events.Close()
//	lock.Release()
//
// Nothing may write to os.Stdout or os.Stderr while it runs: go-plugin owns both.
func Serve(ctx context.Context, opts Options) error {
	if opts.Backend == nil {
		return errors.New("no backend to serve")
	}
	tlsConfig, err := ServerTLS(opts.TLSDir)
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
			stop(errors.New("the host asked this process to end"))
		case <-ctx.Done():
		}
	}()

	service := newService(opts.Backend, opts.Logger)
	returned := make(chan struct{}) // go-plugin's Serve has
	stopped := make(chan struct{})  // the calls have
	started := false
	goplugin.Serve(&goplugin.ServeConfig{
		HandshakeConfig:  Handshake(),
		VersionedPlugins: plugins(service),
		TLSProvider:      func() (*tls.Config, error) { return tlsConfig, nil },
		Logger:           HCLog(opts.Logger.With().Str("component", "go-plugin").Logger(), nil),
		GRPCServer: func(given []grpc.ServerOption) *grpc.Server {
			server := grpc.NewServer(append(given, serverOptions(opts.Logger)...)...)
			started = true
			go func() {
				defer close(stopped)
				select {
				case <-ctx.Done():
				case <-returned:
				}
				endCalls(service, opts.Logger)
				server.Stop()
			}()
			return server
		},
	})
	close(returned)
	if !started {
		return errors.New("go-plugin could not make its socket: see the log")
	}
	<-stopped
	return nil
}

// endCalls cancels all calls and waits for them, but not for ever: what a stuck one holds, the reaper finds.
func endCalls(service *service, log zerolog.Logger) {
	select {
	case <-service.stop():
	case <-time.After(stopTimeout):
		log.Error().Dur("after", stopTimeout).Msg("calls did not return when the executor stopped")
	}
}

func serverOptions(log zerolog.Logger) []grpc.ServerOption {
	return append(interceptors(log),
		grpc.InitialWindowSize(StreamWindow),
		grpc.InitialConnWindowSize(ConnectionWindow),
	)
}
