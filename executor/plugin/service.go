package plugin

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/rs/zerolog"
	"google.golang.org/protobuf/proto"

	"github.com/airlock-ci/airlock/executor/api"
	"github.com/airlock-ci/airlock/executor/api/executorpb"
	"github.com/airlock-ci/airlock/executor/api/wire"
	"github.com/airlock-ci/airlock/internal/fault"
)

// Causes with which the contexts of calls end.
var (
	// ErrCallerGone says that nobody waits for a call any more: its driver or the host has gone.
	ErrCallerGone = errors.New("the caller has gone")
	// ErrStopping says that the executor is ending.
	ErrStopping = errors.New("the executor is stopping")
	// ErrDriverLost says that the host went away under a resumable call and its driver did not come back.
	ErrDriverLost = errors.New("the driver did not come back after the connection to it was lost")

	errCallEnded = errors.New("the call has ended")
	errPanicked  = fault.WithRemedy(fault.Systemf("the executor made a mistake in this call"),
		"its log has the details: please report them")
)

// service implements the gRPC service on a Backend.
type service struct {
	executorpb.UnimplementedExecutorServer
	backend Backend
	log     zerolog.Logger
	grace   time.Duration // how long a resumable call waits for its driver

	mu       sync.Mutex
	stopping bool
	calls    map[string]*call // resumable, by id
	cancels  map[*context.CancelCauseFunc]struct{}
	running  sync.WaitGroup
}

func newService(backend Backend, log zerolog.Logger) *service {
	return &service{
		backend: backend, log: log, grace: resumeGrace,
		calls: map[string]*call{}, cancels: map[*context.CancelCauseFunc]struct{}{},
	}
}

// begin enters a call and returns its context, which ends with a cause: ErrCallerGone when parent does,
// ErrStopping when the executor does. The caller ends it with finish.
func (s *service) begin(parent context.Context) (ctx context.Context, finish func(), err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopping {
		return nil, nil, fault.Systemf("%w", ErrStopping)
	}
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(parent))
	key := &cancel
	s.cancels[key] = struct{}{}
	s.running.Add(1)
	unhook := context.AfterFunc(parent, func() { cancel(ErrCallerGone) })
	return ctx, func() {
		unhook()
		cancel(errCallEnded)
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.cancels, key)
		s.running.Done()
	}, nil
}

// stop refuses further calls and cancels the running ones; done is closed when they have all returned.
func (s *service) stop() (done <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stopping = true
	for cancel := range s.cancels {
		(*cancel)(ErrStopping)
	}
	ended := make(chan struct{})
	go func() {
		s.running.Wait()
		close(ended)
	}()
	return ended
}

// unary runs one method that answers once.
func unary[T any](ctx context.Context, s *service, method func(context.Context) (T, error)) (T, error) {
	var none T
	ctx, finish, err := s.begin(ctx)
	if err != nil {
		return none, wire.ToStatus(err)
	}
	defer finish()
	reply, err := method(ctx)
	if err != nil {
		return none, wire.ToStatus(err)
	}
	return reply, nil
}

func (s *service) Version(context.Context, *api.VersionRequest) (*api.VersionReply, error) {
	version := proto.CloneOf(s.backend.Version())
	version.Resumes = true // this package does
	return version, nil
}

func (s *service) List(ctx context.Context, _ *api.ListRequest) (*api.ListReply, error) {
	return unary(ctx, s, func(ctx context.Context) (*api.ListReply, error) {
		sandboxes, err := s.backend.List(ctx)
		return &api.ListReply{Sandboxes: sandboxes, PendingCalls: s.pendingCalls()}, err
	})
}

func (s *service) Inspect(ctx context.Context, req *api.InspectRequest) (*api.SandboxInfo, error) {
	return unary(ctx, s, func(ctx context.Context) (*api.SandboxInfo, error) {
		return s.backend.Inspect(ctx, req.GetJob())
	})
}

func (s *service) Events(req *api.EventsRequest, stream executorpb.Executor_EventsServer) error {
	ctx, finish, err := s.begin(stream.Context())
	if err != nil {
		return wire.ToStatus(err)
	}
	defer finish()
	return wire.ToStatus(s.backend.Events(ctx, req.GetJob(), req.GetFollow(), func(json []byte) error {
		return stream.Send(&api.Event{Json: json})
	}))
}

func (s *service) Images(ctx context.Context, _ *api.ImagesRequest) (*api.ImagesReply, error) {
	return unary(ctx, s, s.backend.Images)
}

func (s *service) PinImage(ctx context.Context, req *api.PinImageRequest) (*api.PinImageReply, error) {
	return unary(ctx, s, func(ctx context.Context) (*api.PinImageReply, error) {
		return &api.PinImageReply{}, s.backend.PinImage(ctx, req.GetImage(), req.GetPinned())
	})
}

func (s *service) RemoveImage(ctx context.Context, req *api.RemoveImageRequest) (*api.RemoveImageReply, error) {
	return unary(ctx, s, func(ctx context.Context) (*api.RemoveImageReply, error) {
		freed, err := s.backend.RemoveImage(ctx, req.GetImage())
		return &api.RemoveImageReply{FreedBytes: freed}, err
	})
}

func (s *service) Reap(ctx context.Context, req *api.ReapRequest) (*api.ReapReply, error) {
	return unary(ctx, s, func(ctx context.Context) (*api.ReapReply, error) {
		leftovers, err := s.backend.Reap(ctx, req.GetDryRun())
		return &api.ReapReply{Leftovers: leftovers}, err
	})
}

func (s *service) Decisions(context.Context, *api.DecisionsRequest) (*api.DecisionsReply, error) {
	return &api.DecisionsReply{Counts: s.backend.Decisions()}, nil
}

func (s *service) Reload(ctx context.Context, _ *api.ReloadRequest) (*api.ReloadReply, error) {
	return unary(ctx, s, func(ctx context.Context) (*api.ReloadReply, error) {
		return &api.ReloadReply{}, s.backend.Reload(ctx)
	})
}
