package driver

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"sync"
	"syscall"
	"time"

	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/airlock-ci/airlock/executor/api"
	"github.com/airlock-ci/airlock/executor/api/flow"
	"github.com/airlock-ci/airlock/executor/api/hostpb"
	"github.com/airlock-ci/airlock/internal/fault"
)

const (
	// dialPatience bounds the wait for a host that does not listen: it may be restarting, which takes about a
	// second, and a job should not fail for that. A job that has waited once in an outage does not again.
	dialPatience = 5 * time.Second
	// dialInterval is the pause between two tries.
	dialInterval = 50 * time.Millisecond
	// answerPatience bounds the wait for the first answer: behind the host, the executor may be recovering.
	answerPatience = 30 * time.Second
	// outageAnswerPatience is the same for a job that has waited in vain already.
	outageAnswerPatience = 2 * time.Second
)

// errSignalled is the cause of a call that was given up because the runner ended it before it began.
var errSignalled = errors.New("the runner ended the call before the Airlock service took it")

// connection is one connection to the host, for one call.
type connection struct {
	paced *flow.Conn
	wire  *ttrpc.Client
	host  hostpb.HostClient
	close func()
	// resumes tells that the executor lets a call be resumed over another connection.
	resumes bool
}

// connect reaches the host and makes sure that both speak the same protocol.
func (d *Driver) connect(ctx context.Context) (*connection, error) {
	ctx, stop := d.untilSignalled(ctx)
	conn, err := d.reachOnce(ctx)
	if stop() { // then conn's own error, if any, is but a consequence
		if err == nil {
			conn.close()
		}
		return nil, fault.Systemf("%w", errSignalled)
	}
	return conn, err
}

// reachOnce is reach, with the patience of a job that has not waited in this outage, or of one that has.
func (d *Driver) reachOnce(ctx context.Context) (*connection, error) {
	outage := d.outage()
	dial, answer := dialPatience, answerPatience
	if outage.waited() {
		dial, answer = 0, outageAnswerPatience
	}
	conn, err := d.reach(ctx, dial, answer, flow.NewConn)
	switch {
	case err == nil:
		outage.over()
		return conn, nil
	case ctx.Err() != nil || fault.ClassOf(err) != fault.System:
		return nil, err
	}
	outage.note()
	if outage.waited() {
		return nil, fault.Systemf("there is still no answer from the Airlock service")
	}
	return nil, err
}

// untilSignalled returns a context that ends with the first signal, and a function that stops watching and
// reports whether one came.
func (d *Driver) untilSignalled(ctx context.Context) (context.Context, func() bool) {
	ctx, cancel := context.WithCancelCause(ctx)
	watched := make(chan struct{})
	signalled := false
	go func() {
		defer close(watched)
		select {
		case <-d.Signals:
			signalled = true
			cancel(errSignalled)
		case <-ctx.Done():
		}
	}()
	return ctx, func() bool {
		cancel(nil)
		<-watched
		return signalled
	}
}

// reach dials until the host answers or patience ends. A host that is restarting may also accept a connection
// and drop it before its first answer. answer bounds the wait for that answer, pace gives the connection its flow control.
func (d *Driver) reach(ctx context.Context, patience, answer time.Duration, pace func(net.Conn) *flow.Conn) (*connection, error) {
	deadline := time.Now().Add(patience)
	for {
		conn, err := d.open(ctx, answer, pace)
		if err == nil {
			return conn, nil
		}
		if !restarting(err) || time.Now().After(deadline) {
			return nil, d.unreachable(err)
		}
		select {
		case <-time.After(dialInterval):
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

func (d *Driver) open(ctx context.Context, answer time.Duration, pace func(net.Conn) *flow.Conn) (*connection, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, answer, fmt.Errorf("no answer within %s", answer))
	defer cancel()
	raw, err := dial(ctx, d.Socket)
	if err != nil {
		return nil, err
	}
	paced := pace(raw)
	wire := ttrpc.NewClient(paced)
	conn := &connection{paced: paced, wire: wire, host: hostpb.NewHostClient(wire)}
	conn.close = sync.OnceFunc(func() {
		paced.Stop()
		_ = wire.Close()
	})
	version, err := conn.host.Version(ctx, &api.VersionRequest{})
	if err != nil {
		conn.close()
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return nil, err
	}
	if version.GetProtocol() != api.ProtocolVersion {
		conn.close()
		return nil, fault.WithRemedy(fault.Adminf("the Airlock service at %s speaks protocol %d, this driver speaks %d",
			d.Socket, version.GetProtocol(), api.ProtocolVersion),
			"install airlock and airlock-driver of one release and restart the service")
	}
	conn.resumes = version.GetResumes()
	return conn, nil
}

// restarting reports whether an error may pass within a moment.
func restarting(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED) ||
		errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) || errors.Is(err, ttrpc.ErrClosed) || pipeBroken(err) ||
		status.Code(err) == codes.Unavailable // it is stopping
}

// unreachable explains why no host answers.
func (d *Driver) unreachable(err error) error {
	var classified *fault.Error
	switch {
	case errors.As(err, &classified):
		return err
	case errors.Is(err, fs.ErrPermission):
		return fault.WithRemedy(fault.Systemf("the runner's %s may not use %s", runnersUser(), d.Socket), joinGroup)
	default:
		return fault.WithRemedy(fault.Systemf("the Airlock service does not answer at %s: %w", d.Socket, err), startService)
	}
}
