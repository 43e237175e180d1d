package control

import (
	"context"
	"crypto/tls"
	"errors"

	goplugin "github.com/hashicorp/go-plugin"
	"google.golang.org/grpc"

	"github.com/airlock-ci/airlock/internal/identity"
	"github.com/airlock-ci/airlock/internal/pluginlog"
)

// Serve serves the executor to its supervisor, and to callers, until it is asked to stop: by the end of ctx, by SIGTERM or
// by go-plugin's own Shutdown. It then refuses further calls, cancels those that run with the cause ErrStopping, waits for
// them a while, and returns nil. It may be called once. tlsDir holds the certificates of both ends.
//
// Nothing may write to os.Stdout or os.Stderr while it runs: go-plugin owns both.
func (s *Server) Serve(ctx context.Context, tlsDir string) error {
	tlsConfig, err := ServerTLS(tlsDir)
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

	returned := make(chan struct{}) // go-plugin's Serve has
	stopped := make(chan struct{})  // the calls have
	started := false
	goplugin.Serve(&goplugin.ServeConfig{
		HandshakeConfig:  Handshake(),
		VersionedPlugins: ServerPlugins(s.Control()),
		TLSProvider:      func() (*tls.Config, error) { return tlsConfig, nil },
		Logger:           pluginlog.New(s.log.With().Str("component", "go-plugin").Logger(), nil),
		GRPCServer: func(given []grpc.ServerOption) *grpc.Server {
			grpcServer := grpc.NewServer(append(given, interceptors(s.log)...)...)
			started = true
			go func() {
				defer close(stopped)
				select {
				case <-ctx.Done():
				case <-returned:
				}
				s.Stop()
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
