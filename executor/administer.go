package executor

import (
	"context"
	"fmt"

	"github.com/airlock-ci/airlock/api"
	"github.com/airlock-ci/airlock/internal/fault"
)

// Administration is the part of a Backend that answers the questions of administrators.
type Administration interface {
	List(ctx context.Context) ([]*api.SandboxInfo, error)
	Inspect(ctx context.Context, job string) (*api.SandboxInfo, error)
	Images(ctx context.Context) (*api.Images, error)
	RemoveImage(ctx context.Context, image string) (freed int64, err error)
	PinImage(ctx context.Context, image string, pinned bool) error
	Reap(ctx context.Context, dryRun bool) ([]*api.Leftover, error)
}

// unknownCall is the failure of a call that nobody answers.
type unknownCall api.Op

func (u unknownCall) Error() string { return fmt.Sprintf("the executor knows no call %q", string(u)) }

// administer answers the questions of administrators: package api defines them.
func (c *caller) administer(ctx context.Context, call *api.Call) error {
	b := c.server.backend
	switch call.Op {
	case api.ListSandboxes.Op:
		return answer(call, api.ListSandboxes, func(api.Nothing) ([]*api.SandboxInfo, error) { return b.List(ctx) })
	case api.InspectOne.Op:
		return answer(call, api.InspectOne, func(req api.InspectRequest) (*api.SandboxInfo, error) { return b.Inspect(ctx, req.Job) })
	case api.ListImages.Op:
		return answer(call, api.ListImages, func(api.Nothing) (*api.Images, error) { return b.Images(ctx) })
	case api.RemoveImage.Op:
		return answer(call, api.RemoveImage, func(req api.ImageRequest) (api.RemovedImage, error) {
			freed, err := b.RemoveImage(ctx, req.Image)
			return api.RemovedImage{FreedBytes: freed}, err
		})
	case api.PinImage.Op:
		return answer(call, api.PinImage, func(req api.PinRequest) (api.Nothing, error) {
			return api.Nothing{}, b.PinImage(ctx, req.Image, req.Pinned)
		})
	case api.Reap.Op:
		return answer(call, api.Reap, func(req api.ReapRequest) ([]*api.Leftover, error) { return b.Reap(ctx, req.DryRun) })
	default:
		return fault.WithRemedy(fault.Systemf("%w", unknownCall(call.Op)), "use programs of one release")
	}
}

// answer decodes a question, and writes what do makes of it.
func answer[Q, A any](call *api.Call, question api.Question[Q, A], do func(Q) (A, error)) error {
	var asked Q
	if err := call.Decode(&asked); err != nil {
		return err
	}
	answered, err := do(asked)
	if err != nil {
		return err
	}
	return api.Answer(call, question, answered)
}
