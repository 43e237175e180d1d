package main

import (
	"context"

	"github.com/airlock-ci/airlock/cache"
	"github.com/airlock-ci/airlock/internal/joblog"
	"github.com/airlock-ci/airlock/isolation"
	"github.com/airlock-ci/airlock/jobs"
)

// layers makes a cache what jobs expect. Cache and isolation know nothing of each other; here they meet.
type layers struct {
	*cache.Cache
	runtimes []sandboxRuntime
}

// processor is the power of a runtime to tell the variant of the processor in its sandboxes, where that is not the host's.
type processor interface {
	ProcessorVariant(ctx context.Context) (string, error)
}

// leastProcessor is what every processor is: of several images one for any.
const leastProcessor = "v1"

// variant is what images for a level are chosen by: empty for the host's own processor. A runtime that cannot tell says so
// again, as an error, when a sandbox is to be made.
func variant(ctx context.Context, runtimes []sandboxRuntime, level isolation.Level) string {
	for _, r := range runtimes {
		if p, ok := r.(processor); ok && r.Level() == level {
			found, err := p.ProcessorVariant(ctx)
			if err != nil {
				return leastProcessor
			}
			return found
		}
	}
	return ""
}

func (l layers) Base(ctx context.Context, req jobs.BaseRequest, log *joblog.Log) (jobs.Base, error) {
	credentials := make([]cache.Credentials, 0, len(req.Credentials))
	for _, c := range req.Credentials {
		if c.Type == "registry" {
			credentials = append(credentials, cache.Credentials{Registry: c.URL, Username: c.Username, Password: c.Password})
		}
	}
	base, err := l.Cache.Base(ctx, cache.Request{
		Image: req.Image, PullPolicy: req.PullPolicy, Holder: req.Holder,
		Credentials: credentials, AllowLocal: req.Trusted, Form: form(req.Level),
		Platform: req.Platform, Variant: variant(ctx, l.runtimes, req.Level),
	}, log)
	if err != nil {
		return jobs.Base{}, err
	}
	root := isolation.Root{
		Layers: base.Layers,
		Config: isolation.ImageConfig{
			Env: base.Config.Env, User: base.Config.User, WorkingDir: base.Config.WorkingDir, OSVersion: base.Config.OSVersion,
		},
	}
	if form(req.Level) == cache.FormDisk {
		root.Layers, root.Disk = nil, base.Disk
	}
	return jobs.Base{Image: base.Image, Digest: base.Digest, Pulled: base.Pulled, Bytes: base.Bytes, Root: root, Warnings: base.Warnings}, nil
}

func (l layers) ScratchUsed(ctx context.Context, id string) (int64, error) {
	return l.ScratchUsage(ctx, id)
}

func (l layers) NewScratch(ctx context.Context, req jobs.ScratchRequest) (jobs.Scratch, error) {
	scratch, err := l.Cache.NewScratch(ctx, cache.ScratchRequest{ID: req.ID, Size: req.Size, Form: form(req.Level)})
	return jobs.Scratch{Dir: scratch.Dir, Disk: scratch.Disk}, err
}
