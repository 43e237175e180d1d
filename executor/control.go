package executor

import (
	"bytes"
	"context"

	"github.com/prometheus/common/expfmt"

	"github.com/airlock-ci/airlock/api/control"
	"github.com/airlock-ci/airlock/internal/fault"
)

// controlled answers the supervisor.
type controlled struct {
	control.UnimplementedControlServer
	*server
}

func (c controlled) Version(context.Context, *control.VersionRequest) (*control.VersionReply, error) {
	v := c.backend.Version()
	return &control.VersionReply{Protocol: v.Protocol, Version: v.Version, Instance: v.Instance}, nil
}

func (c controlled) Listen(_ context.Context, req *control.ListenRequest) (*control.ListenReply, error) {
	if c.calls.refuses() {
		return nil, control.ToStatus(fault.Systemf("%w", ErrStopping))
	}
	entrances, err := c.openEntrances(req)
	if err != nil {
		return nil, control.ToStatus(err)
	}
	c.listen(entrances)
	return &control.ListenReply{}, nil
}

// Drain refuses calls first and looks then: no call begins in between. Callers whom that meets come again.
func (c controlled) Drain(ctx context.Context, _ *control.DrainRequest) (*control.DrainReply, error) {
	calls := c.calls.refuse(true)
	sandboxes, err := c.backend.List(ctx)
	if err != nil || calls > 0 || len(sandboxes) > 0 {
		c.calls.refuse(false)
		return &control.DrainReply{Sandboxes: uint32(len(sandboxes)), Calls: uint32(calls)}, control.ToStatus(err)
	}
	c.deaf()
	return &control.DrainReply{Drained: true}, nil
}

func (c controlled) Reload(ctx context.Context, _ *control.ReloadRequest) (*control.ReloadReply, error) {
	return &control.ReloadReply{}, control.ToStatus(c.backend.Reload(ctx))
}

func (c controlled) Metrics(context.Context, *control.MetricsRequest) (*control.MetricsReply, error) {
	families, err := c.metrics.registry.Gather()
	if err != nil {
		return nil, control.ToStatus(err)
	}
	var text bytes.Buffer
	encoder := expfmt.NewEncoder(&text, expfmt.NewFormat(expfmt.TypeTextPlain))
	for _, family := range families {
		if err := encoder.Encode(family); err != nil {
			return nil, control.ToStatus(err)
		}
	}
	return &control.MetricsReply{Text: text.Bytes()}, nil
}

func (c controlled) Events(_ *control.EventsRequest, stream control.Control_EventsServer) error {
	ctx, finish, err := c.calls.begin(stream.Context(), false)
	if err != nil {
		return control.ToStatus(err)
	}
	defer finish()
	return control.ToStatus(c.backend.Events(ctx, "", true, func(json []byte) error {
		return stream.Send(&control.Event{Json: json})
	}))
}
