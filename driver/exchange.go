package driver

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/airlock-ci/airlock/executor/api"
	"github.com/airlock-ci/airlock/executor/api/hostpb"
	"github.com/airlock-ci/airlock/internal/failpoint"
	"github.com/airlock-ci/airlock/internal/fault"
)

// Signal numbers of the contract, the same on every operating system.
const (
	signalTerminate = 15
	signalKill      = 9
)

const (
	// parentInterval is how often the driver looks whether its runner still lives.
	parentInterval = time.Second
	// resumePatience bounds the wait for a host that went away under a call. The executor waits as long.
	resumePatience = 30 * time.Second
	// steadyAfter is how long a connection must have lasted for its end to count as the first of a row.
	steadyAfter = time.Second
)

// exchange is one call over as many connections as it takes. A resumable call goes on where it was, which the
// count of the frames received tells; a clean-up is simply asked for again; any other call ends with its
// connection.
type exchange struct {
	driver  *Driver
	name    string
	opening *api.ClientFrame
	data    []byte
	id      string // of a resumable call
	abort   context.CancelCauseFunc

	conn atomic.Pointer[connection] // replaced by the receiving goroutine alone

	// Of the receiving goroutine.
	received uint64 // frames
	never    bool   // the executor says that the call never began
	attached time.Time
	lost     time.Time // when the present row of failures began

	mu      sync.Mutex
	stream  hostpb.Host_CallClient // written by the receiving goroutine alone
	ready   bool                   // stream takes signals and acknowledgements
	signals []uint32               // all that were meant to be sent
	done    uint64                 // frames dealt with
	behind  int                    // what those of them count that are not acknowledged yet
}

// errNeverBegan is why a call is made anew.
var errNeverBegan = errors.New("the call had not reached the executor")

// newExchange prepares a call over its first connection. It is resumable if the executor can do that.
func newExchange(d *Driver, name string, opening *api.ClientFrame, data []byte, conn *connection,
	abort context.CancelCauseFunc,
) *exchange {
	x := &exchange{driver: d, name: name, opening: opening, data: data, abort: abort, lost: time.Now()}
	x.conn.Store(conn)
	if conn.resumes {
		switch kind := opening.GetKind().(type) {
		case *api.ClientFrame_Prepare:
			x.id = newCallID()
			kind.Prepare.CallId = x.id
		case *api.ClientFrame_Run:
			x.id = newCallID()
			kind.Run.CallId = x.id
		}
	}
	return x
}

func newCallID() string {
	var id [16]byte
	_, _ = rand.Read(id[:]) // never fails (crypto/rand)
	return hex.EncodeToString(id[:])
}

func (x *exchange) close() { x.conn.Load().close() }

// receive returns the call's next frame, from whatever connection it comes.
func (x *exchange) receive(ctx context.Context) (*api.ServerFrame, error) {
	for {
		frame, err := x.next(ctx)
		comesBack := x.id != "" || x.name == Cleanup
		if err == nil || !comesBack || ctx.Err() != nil {
			return frame, err
		}
		if err := x.reconnect(ctx, err); err != nil {
			return nil, err
		}
	}
}

// next returns the next frame of the present connection.
func (x *exchange) next(ctx context.Context) (*api.ServerFrame, error) {
	if x.stream == nil {
		if err := x.begin(ctx); err != nil {
			return nil, err
		}
	}
	frame, err := x.stream.Recv()
	if err != nil {
		return nil, err
	}
	if frame.GetResult().GetUnknown() && x.received == 0 {
		x.never = true
		return nil, errNeverBegan
	}
	x.received++
	return frame, nil
}

// reconnect replaces a connection that broke, because of cause, and attaches to the call over the new one.
func (x *exchange) reconnect(ctx context.Context, cause error) error {
	broken := x.conn.Load()
	broken.close()
	if time.Since(x.attached) > steadyAfter {
		x.lost = time.Now()
	}
	for {
		select {
		case <-time.After(dialInterval):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		patience := resumePatience - time.Since(x.lost)
		if patience <= 0 {
			return cause
		}
		conn, err := x.driver.reach(ctx, patience, answerPatience, broken.paced.Next)
		if err != nil {
			return err
		}
		x.conn.Store(conn)
		if x.id == "" || x.never {
			err = x.begin(ctx)
		} else {
			err = x.resume(ctx)
		}
		if err == nil {
			return nil
		}
		conn.close()
		cause = err
	}
}

// begin makes the call over the present connection.
func (x *exchange) begin(ctx context.Context) error {
	stream, err := x.open(ctx)
	if err != nil {
		return err
	}
	x.never = false
	go func() {
		if sendInput(stream, x.opening, x.data) != nil {
			return // the receiving goroutine learns why
		}
		if err := failpoint.Hit("driver/" + x.name + "-sent"); err != nil {
			x.abort(err)
			x.close()
			return
		}
		x.mu.Lock()
		defer x.mu.Unlock()
		if x.stream != stream {
			return // it broke meanwhile
		}
		x.ready = true
		for _, signal := range x.signals {
			x.send(&api.ClientFrame{Kind: &api.ClientFrame_Signal{Signal: signal}})
		}
	}()
	return nil
}

// resume attaches to the call over the present connection.
func (x *exchange) resume(ctx context.Context) error {
	stream, err := x.open(ctx)
	if err != nil {
		return err
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	x.ready, x.behind = true, 0
	return stream.Send(&api.ClientFrame{Kind: &api.ClientFrame_Resume{Resume: &api.Resume{
		CallId: x.id, Received: x.received, Acknowledged: x.done, Signals: x.signals,
	}}})
}

// open opens a stream on the present connection.
func (x *exchange) open(ctx context.Context) (hostpb.Host_CallClient, error) {
	x.attached = time.Now()
	stream, err := x.conn.Load().host.Call(ctx)
	if err != nil {
		return nil, err
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	x.stream, x.ready = stream, false
	return stream, nil
}

// consumed notes that a frame was dealt with, and acknowledges often enough for the executor never to wait.
func (x *exchange) consumed(frame *api.ServerFrame) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.done++
	if x.behind += api.FrameCost(frame); x.id != "" && x.ready && x.behind >= api.Window/4 {
		x.behind = 0
		x.send(&api.ClientFrame{Kind: &api.ClientFrame_Ack{Ack: x.done}})
	}
}

// signal sends a signal, now or as soon as there is somebody to send it to.
func (x *exchange) signal(number uint32) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.signals = append(x.signals, number)
	if x.ready {
		x.send(&api.ClientFrame{Kind: &api.ClientFrame_Signal{Signal: number}})
	}
}

// send sends a frame over the present stream and must be called with mu held. What gets lost is told again by
// resume.
func (x *exchange) send(frame *api.ClientFrame) { _ = x.stream.Send(frame) }

// steer passes signals on, and ends the call when its runner is gone.
func (x *exchange) steer(ctx context.Context, broken <-chan struct{}) {
	number := uint32(signalTerminate)
	watch := time.NewTicker(parentInterval)
	defer watch.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-watch.C:
			if parent := x.driver.Parent; parent > 0 && parentGone(parent) {
				x.abort(fault.Systemf("the runner that called this driver (process %d) is gone", parent))
				x.close()
				return
			}
			continue
		case <-broken:
			broken, number = nil, signalKill
		case <-x.driver.Signals:
		}
		x.signal(number)
		number = signalKill
	}
}

// sendInput sends the opening frame, the data in chunks, and its end.
func sendInput(stream hostpb.Host_CallClient, opening *api.ClientFrame, data []byte) error {
	if err := stream.Send(opening); err != nil {
		return err
	}
	for rest := bytes.NewBuffer(data); rest.Len() > 0; {
		chunk := &api.ClientFrame{Kind: &api.ClientFrame_Data{Data: rest.Next(api.MaxChunk)}}
		if err := stream.Send(chunk); err != nil {
			return err
		}
	}
	return stream.Send(&api.ClientFrame{Kind: &api.ClientFrame_End{End: true}})
}
