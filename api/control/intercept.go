package control

import (
	"context"
	"runtime/debug"
	"strings"

	"github.com/rs/zerolog"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/airlock-ci/airlock/internal/fault"
)

// served are the services that a supervisor needs. go-plugin registers more, reflection for one; a connection that
// asks for it is no supervisor of ours.
var served = []string{
	"/" + Control_ServiceDesc.ServiceName + "/",
	"/plugin.GRPCBroker/",
	"/plugin.GRPCController/",
	"/plugin.GRPCStdio/",
	"/grpc.health.v1.Health/",
}

func checkMethod(method string) error {
	for _, prefix := range served {
		if strings.HasPrefix(method, prefix) {
			return nil
		}
	}
	return status.Errorf(codes.PermissionDenied, "the executor does not serve %s", method)
}

// interceptors refuse what is not served and keep a panic in one call from ending the executor with all its
// sandboxes.
func interceptors(log zerolog.Logger) []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.UnaryInterceptor(func(ctx context.Context, req any, info *grpc.UnaryServerInfo,
			handler grpc.UnaryHandler,
		) (reply any, err error) {
			if err := checkMethod(info.FullMethod); err != nil {
				log.Warn().Str("method", info.FullMethod).Msg("refused a method")
				return nil, err
			}
			defer recovered(log, info.FullMethod, &err)
			return handler(ctx, req)
		}),
		grpc.StreamInterceptor(func(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo,
			handler grpc.StreamHandler,
		) (err error) {
			if err := checkMethod(info.FullMethod); err != nil {
				log.Warn().Str("method", info.FullMethod).Msg("refused a method")
				return err
			}
			defer recovered(log, info.FullMethod, &err)
			return handler(srv, stream)
		}),
	}
}

func recovered(log zerolog.Logger, method string, err *error) {
	if p := recover(); p != nil {
		*err = ToStatus(Panicked(log, method, p))
	}
}

var errPanicked = fault.WithRemedy(fault.Systemf("the executor made a mistake in this call"),
	"its log has the details: please report them")

// Panicked logs a panic with its stack and returns the failure that its caller gets to see.
func Panicked(log zerolog.Logger, where string, p any) error {
	log.Error().Str("call", where).Any("panic", p).Str("stack", string(debug.Stack())).Msg("a call panicked")
	return errPanicked
}
