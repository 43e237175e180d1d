package control

import (
	"context"

	"github.com/airlock-ci/airlock/internal/fault"
)

// controlled answers the supervisor.
type controlled struct {
	UnimplementedControlServer
	*Server
}

// Control returns what answers the supervisor. Serve serves it.
func (s *Server) Control() ControlServer { return controlled{Server: s} }

func (c controlled) Version(context.Context, *VersionRequest) (*VersionReply, error) {
	v := c.executor.Version()
	return &VersionReply{Protocol: v.Protocol, Version: v.Version, Instance: v.Instance}, nil
}

func (c controlled) Listen(_ context.Context, req *ListenRequest) (*ListenReply, error) {
	if c.calls.refuses() {
		return nil, ToStatus(fault.Systemf("%w", ErrStopping))
	}
	c.mu.Lock()
	former := append([]*Listener(nil), c.listeners...)
	c.mu.Unlock()
	listeners, err := c.open(req, former)
	if err == nil {
		err = c.listen(listeners)
	}
	return &ListenReply{}, ToStatus(err)
}

// Drain refuses calls first and then looks, so that no call begins in between. Refused callers come again; to refuse
// few, it looks before that, too.
func (c controlled) Drain(ctx context.Context, _ *DrainRequest) (*DrainReply, error) {
	if lost, err := c.wouldLose(ctx, c.calls.count()); err != nil || !lost.GetDrained() {
		return lost, err
	}
	lost, err := c.wouldLose(ctx, c.calls.refuse(true))
	if err != nil || !lost.GetDrained() {
		c.calls.refuse(false)
		return lost, err
	}
	c.deaf(false)
	return lost, nil
}

// wouldLose returns what would be lost with the executor and these calls.
func (c controlled) wouldLose(ctx context.Context, calls int) (*DrainReply, error) {
	sandboxes, err := c.executor.Sandboxes(ctx)
	return &DrainReply{
		Drained: calls == 0 && sandboxes == 0, Sandboxes: uint32(sandboxes), Calls: uint32(calls),
	}, ToStatus(err)
}

func (c controlled) Reload(ctx context.Context, _ *ReloadRequest) (*ReloadReply, error) {
	return &ReloadReply{}, ToStatus(c.executor.Reload(ctx))
}

func (c controlled) Metrics(context.Context, *MetricsRequest) (*MetricsReply, error) {
	text, err := c.executor.Metrics()
	return &MetricsReply{Text: text}, ToStatus(err)
}

func (c controlled) Events(_ *EventsRequest, stream Control_EventsServer) error {
	ctx, finish, err := c.calls.begin(stream.Context(), false)
	if err != nil {
		return ToStatus(err)
	}
	defer finish()
	return ToStatus(c.executor.Events(ctx, func(json []byte) error { return stream.Send(&Event{Json: json}) }))
}
