package plugin

import (
	"context"
	"fmt"
	"sync"

	"google.golang.org/protobuf/proto"

	"github.com/airlock-ci/airlock/executor/api"
)

// backlog holds the frames of a resumable call until its driver has acknowledged them. It is what remains of the
// call's output while nobody is attached: whoever attaches reads on from any frame that is still here. Who writes
// waits while api.Window bytes are not acknowledged.
type backlog struct {
	mu      sync.Mutex
	changed chan struct{}      // closed and replaced with every change
	frames  []*api.ServerFrame // not acknowledged, oldest first
	acked   uint64             // how many are; frames[0] has the number acked+1
	held    int                // what frames count, in bytes
	ended   bool               // the last of frames is, or was, the result
	dropped error              // nobody will read on
}

func newBacklog() *backlog { return &backlog{changed: make(chan struct{})} }

// send adds a frame, which remains the caller's, as soon as there is room for it.
func (b *backlog) send(frame *api.ServerFrame) error {
	for {
		changed, err := b.offer(frame)
		if changed == nil {
			return err
		}
		<-changed
	}
}

// offer adds a frame if it has room; if not, it returns what to wait for.
func (b *backlog) offer(frame *api.ServerFrame) (wait <-chan struct{}, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.dropped != nil:
		return nil, b.dropped
	case b.ended:
		return nil, errCallEnded
	case len(b.frames) > 0 && b.held+api.FrameCost(frame) > api.Window:
		return b.changed, nil
	}
	b.add(proto.CloneOf(frame))
	return nil, nil
}

// end adds the result, for which there is always room; nothing follows it.
func (b *backlog) end(result *api.Result) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.dropped != nil {
		return
	}
	b.ended = true
	b.add(&api.ServerFrame{Kind: &api.ServerFrame_Result{Result: result}})
}

func (b *backlog) add(frame *api.ServerFrame) {
	b.frames = append(b.frames, frame)
	b.held += api.FrameCost(frame)
	b.announce()
}

func (b *backlog) announce() {
	close(b.changed)
	b.changed = make(chan struct{})
}

// frame returns the frame of a number, 1 or more, as soon as it is there. The error is ctx's cause, or why there
// will be none.
func (b *backlog) frame(ctx context.Context, number uint64) (*api.ServerFrame, error) {
	for {
		b.mu.Lock()
		dropped, changed := b.dropped, b.changed
		if dropped == nil && number > b.acked && number <= b.last() {
			frame := b.frames[number-b.acked-1]
			b.mu.Unlock()
			return frame, nil
		}
		gone := number <= b.acked
		b.mu.Unlock()
		switch {
		case dropped != nil:
			return nil, dropped
		case gone:
			return nil, fmt.Errorf("frame %d was acknowledged before it was sent", number)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// last is the number of the newest frame.
func (b *backlog) last() uint64 { return b.acked + uint64(len(b.frames)) }

// readableAfter reports whether who has received so many frames can read on.
func (b *backlog) readableAfter(received uint64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return received >= b.acked && received <= b.last()
}

// acknowledge releases the first so many frames of the call.
func (b *backlog) acknowledge(count uint64) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if count > b.last() {
		return fmt.Errorf("%d frames were acknowledged, there are %d", count, b.last())
	}
	for b.acked < count {
		b.held -= api.FrameCost(b.frames[0])
		b.frames[0] = nil // so that the array does not keep it
		b.frames = b.frames[1:]
		b.acked++
	}
	b.announce()
	return nil
}

// drop releases everything: nobody will read on. Who writes gets the cause.
func (b *backlog) drop(cause error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.dropped, b.frames, b.held = cause, nil, 0
	b.announce()
}
