package supervisor

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	goplugin "github.com/hashicorp/go-plugin"

	"github.com/airlock-ci/airlock/api"
	"github.com/airlock-ci/airlock/api/control"
	"github.com/airlock-ci/airlock/internal/fault"
	"github.com/airlock-ci/airlock/internal/identity"
)

// executor is one living executor process that the supervisor talks to.
type executor struct {
	rpc     control.ControlClient
	version *control.VersionReply
	process *identity.Handle
	record  record
	found   bool // re-attached, not started by this supervisor

	client *goplugin.Client
	conn   *goplugin.GRPCClient
}

// errUnusable marks failures that another attempt of the same supervisor cannot change.
var errUnusable = errors.New("the executor cannot be used")

// connect makes the connection through go-plugin, which starts the process or attaches to it, and asks for the
// version before anything else.
func (s *supervisor) connect(ctx context.Context, client *goplugin.Client) (*executor, error) {
	protocol, err := client.Client()
	if err != nil {
		return nil, err
	}
	conn, ok := protocol.(*goplugin.GRPCClient)
	if !ok {
		return nil, fmt.Errorf("go-plugin connected with %T, not gRPC", protocol)
	}
	dispensed, err := protocol.Dispense(control.Name)
	if err != nil {
		return nil, err
	}
	rpc, ok := dispensed.(control.ControlClient)
	if !ok {
		return nil, fmt.Errorf("go-plugin dispensed %T", dispensed)
	}
	version, err := s.askVersion(ctx, rpc)
	if err != nil {
		return nil, err
	}
	return &executor{rpc: rpc, version: version, client: client, conn: conn}, nil
}

func (s *supervisor) askVersion(ctx context.Context, rpc control.ControlClient) (*control.VersionReply, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, s.answerWithin, errNoAnswer)
	defer cancel()
	version, err := rpc.Version(ctx, &control.VersionRequest{})
	if err != nil {
		return nil, fmt.Errorf("asking for the executor's version: %w", withCause(ctx, control.FromStatus(err)))
	}
	return version, nil
}

// errNoAnswer is the cause when an executor takes too long over a simple question.
var errNoAnswer = errors.New("the executor does not answer in time")

// withCause puts a time-out's cause before gRPC's words for it.
func withCause(ctx context.Context, err error) error {
	if ctx.Err() == nil {
		return err
	}
	return fmt.Errorf("%w: %w", context.Cause(ctx), err)
}

// checkProtocol refuses an executor of another contract.
func (e *executor) checkProtocol() error {
	if e.version.GetProtocol() == api.ProtocolVersion {
		return nil
	}
	return fault.WithRemedy(fault.Adminf("%w: it speaks protocol %d, this service speaks %d",
		errUnusable, e.version.GetProtocol(), api.ProtocolVersion),
		"install airlock and airlock-executor of one release")
}

// drain makes the executor refuse all further calls if nobody needs it, and returns what would be lost with it if
// somebody does: its living sandboxes, and the calls without a result.
func (e *executor) drain(ctx context.Context) (*control.DrainReply, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, answerTimeout, errNoAnswer)
	defer cancel()
	reply, err := e.rpc.Drain(ctx, &control.DrainRequest{})
	return reply, control.FromStatus(err)
}

// end asks the executor to stop, which makes it destroy every sandbox, and kills it when it does not.
func (e *executor) end(grace time.Duration) error {
	err := endProcess(e.process, grace)
	e.forget()
	return err
}

// forget releases what the supervisor holds of an executor that has ended.
func (e *executor) forget() {
	e.process.Close()
	_ = e.conn.Conn.Close()
	// go-plugin's own goroutines end once nobody holds the executor's stderr any more; a process that the
	// executor left behind may do so for a while.
	go e.client.Kill()
}

// leave lets go of a living executor.
func (e *executor) leave() {
	e.process.Close()
	_ = e.conn.Conn.Close()
}

// endProcess ends a process: politely, then for certain.
func endProcess(process *identity.Handle, grace time.Duration) error {
	if err := process.Terminate(); err != nil {
		return fmt.Errorf("asking the executor to stop: %w", err)
	}
	ctx, cancel := context.WithTimeoutCause(context.Background(), grace,
		fmt.Errorf("the executor did not stop within %s", grace))
	defer cancel()
	if process.Wait(ctx) == nil {
		return nil
	}
	if err := process.Kill(); err != nil {
		return fmt.Errorf("killing the executor: %w", err)
	}
	last, cancelLast := context.WithTimeoutCause(context.Background(), 10*time.Second,
		errors.New("the executor was killed and does not end"))
	defer cancelLast()
	return process.Wait(last)
}

// checksumOf returns the SHA-256 of a file.
func checksumOf(path string) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }()
	hash := sha256.New()
	if _, err := io.Copy(hash, file); err != nil {
		return nil, err
	}
	return hash.Sum(nil), nil
}

func hexOf(sum []byte) string { return hex.EncodeToString(sum) }
