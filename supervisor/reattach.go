package supervisor

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"time"

	goplugin "github.com/hashicorp/go-plugin"
	"github.com/hashicorp/go-plugin/runner"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/airlock-ci/airlock/api"
	"github.com/airlock-ci/airlock/api/control"
	"github.com/airlock-ci/airlock/internal/identity"
)

// errNoneLeft says that there is no executor to attach to.
var errNoneLeft = errors.New("no executor was left running")

// reattach finds the executor that a former supervisor left and attaches to it. The record alone is not believed:
// the process must be the very one that was started, and it must answer with the recorded instance over the
// certificates that only the two ends have. One that is ours but does not answer is left to endForgotten.
func (s *supervisor) reattach(ctx context.Context) (*executor, error) {
	r, err := readRecord(s.paths.record())
	if errors.Is(err, os.ErrNotExist) {
		return nil, errNoneLeft
	}
	if err != nil {
		return nil, fmt.Errorf("reading the executor's record: %w", err)
	}
	process, err := identity.Open(r.Process)
	if errors.Is(err, identity.ErrGone) {
		s.log.Info().Int("pid", r.Process.PID).Msg("the recorded executor has ended")
		return nil, errNoneLeft
	}
	if err != nil {
		return nil, err
	}
	e, err := s.attach(ctx, r, process)
	if err != nil {
		process.Close()
		return nil, fmt.Errorf("attaching to the executor (process %d): %w", r.Process.PID, err)
	}
	return e, nil
}

func (s *supervisor) attach(ctx context.Context, r record, process *identity.Handle) (*executor, error) {
	if r.Protocol != api.ProtocolVersion {
		return nil, fmt.Errorf("it speaks protocol %d, this service speaks %d", r.Protocol, api.ProtocolVersion)
	}
	addr, err := r.addr()
	if err != nil {
		return nil, err
	}
	tlsConfig, err := control.ClientTLS(s.paths.tls())
	if err != nil {
		return nil, err
	}
	client := goplugin.NewClient(&goplugin.ClientConfig{
		HandshakeConfig: control.Handshake(),
		// go-plugin negotiates nothing when it attaches: the Version call does.
		Plugins:          control.ClientPlugins()[int(r.Protocol)],
		TLSConfig:        tlsConfig,
		AllowedProtocols: []goplugin.Protocol{goplugin.ProtocolGRPC},
		Logger:           s.logs.hclog(),
		Reattach: &goplugin.ReattachConfig{
			Protocol: goplugin.ProtocolGRPC, ProtocolVersion: int(r.Protocol), Addr: addr,
			ReattachFunc: func() (runner.AttachedRunner, error) {
				if err := s.probe(ctx, r, addr, tlsConfig); err != nil {
					return nil, err
				}
				return &attached{process: process, pid: r.Process.PID}, nil
			},
		},
	})
	e, err := s.connect(ctx, client)
	if err != nil {
		return nil, err
	}
	e.process, e.record, e.found = process, r, true
	err = s.handSockets(ctx, e)
	if err == nil {
		e.record.Sockets, e.record.Left = s.socketPaths(), time.Time{}
		err = writeRecord(s.paths.record(), e.record)
	}
	if err != nil {
		_ = e.conn.Conn.Close()
		return nil, err
	}
	e.record.Left = r.Left // for its log lines since
	return e, nil
}

// probe checks, on a connection of its own, that the recorded instance answers. go-plugin cannot be trusted
// with that: its first call to an executor that hangs has no time limit.
func (s *supervisor) probe(ctx context.Context, r record, addr net.Addr, tlsConfig *tls.Config) error {
	conn, err := grpc.NewClient("passthrough:///executor",
		grpc.WithTransportCredentials(credentials.NewTLS(tlsConfig)),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, addr.Network(), addr.String())
		}))
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	version, err := s.askVersion(ctx, control.NewControlClient(conn))
	if err != nil {
		return err
	}
	if version.GetInstance() != r.Instance {
		return fmt.Errorf("instance %q answers, %q was left", version.GetInstance(), r.Instance)
	}
	return nil
}

// outdated reports whether a found executor runs another binary than the installed one.
func (s *supervisor) outdated(e *executor) bool { return e.record.Checksum != hexOf(s.checksum) }

// attached tells go-plugin about a process that is not its child, by a hold that cannot reach another.
type attached struct {
	process *identity.Handle
	pid     int
}

func (a *attached) Wait(context.Context) error { <-a.process.Exited(); return nil }
func (a *attached) Kill(context.Context) error { return a.process.Kill() }
func (a *attached) ID() string                 { return strconv.Itoa(a.pid) }

func (a *attached) PluginToHost(network, address string) (string, string, error) {
	return network, address, nil
}

func (a *attached) HostToPlugin(network, address string) (string, string, error) {
	return network, address, nil
}
