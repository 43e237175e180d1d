package control

import (
	"context"
	"errors"

	goplugin "github.com/hashicorp/go-plugin"
	"google.golang.org/grpc"

	"github.com/airlock-ci/airlock/api"
)

// Name is the name under which the executor is dispensed.
const Name = "executor"

// Handshake is what go-plugin compares before anything else. The cookie keeps people from starting an executor
// by hand; it protects nothing.
func Handshake() goplugin.HandshakeConfig {
	return goplugin.HandshakeConfig{
		MagicCookieKey:   "AIRLOCK_EXECUTOR_COOKIE",
		MagicCookieValue: "c2b1f0a6-6f5e-4f0e-9a53-airlock",
	}
}

// ClientPlugins is what a supervisor can talk to, by protocol version; it dispenses a ControlClient.
func ClientPlugins() map[int]goplugin.PluginSet { return ServerPlugins(nil) }

// ServerPlugins is what an executor serves, by protocol version.
func ServerPlugins(server ControlServer) map[int]goplugin.PluginSet {
	return map[int]goplugin.PluginSet{api.ProtocolVersion: {Name: &grpcPlugin{server: server}}}
}

type grpcPlugin struct {
	goplugin.NetRPCUnsupportedPlugin
	server ControlServer
}

func (p *grpcPlugin) GRPCServer(_ *goplugin.GRPCBroker, s *grpc.Server) error {
	if p.server == nil {
		return errors.New("this process serves no executor")
	}
	RegisterControlServer(s, p.server)
	return nil
}

func (p *grpcPlugin) GRPCClient(_ context.Context, _ *goplugin.GRPCBroker, conn *grpc.ClientConn) (any, error) {
	return NewControlClient(conn), nil
}
