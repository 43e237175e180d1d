package main

import (
	"context"

	"github.com/airlock-ci/airlock/cache"
	"github.com/airlock-ci/airlock/internal/joblog"
	"github.com/airlock-ci/airlock/isolation"
	"github.com/airlock-ci/airlock/jobs"
)

// layers makes a cache what jobs expect. Cache and isolation know nothing of each other; here they meet.
type layers struct{ *cache.Cache }

// baseForm and scratchForm translate what a runtime needs to what a cache makes. A form that nobody names is layers or a
// directory, which a runtime that needs a disk refuses.
func baseForm(form isolation.RootForm) cache.Form {
	if form == isolation.RootDisk {
		return cache.FormDisk
	}
	return cache.FormLayers
}

func scratchForm(form isolation.ScratchForm) cache.Form {
	if form == isolation.ScratchDisk {
		return cache.FormDisk
	}
	return cache.FormLayers
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
		Credentials: credentials, AllowLocal: req.Trusted, Form: baseForm(req.Form),
		Platform: req.Platform, Variant: req.Variant,
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
	if req.Form == isolation.RootDisk {
		root.Layers, root.Disk = nil, base.Disk
	}
	return jobs.Base{Image: base.Image, Digest: base.Digest, Pulled: base.Pulled, Bytes: base.Bytes, Root: root, Warnings: base.Warnings}, nil
}

func (l layers) ScratchUsed(ctx context.Context, id string) (int64, error) {
	return l.ScratchUsage(ctx, id)
}

func (l layers) NewScratch(ctx context.Context, req jobs.ScratchRequest) (jobs.Scratch, error) {
	scratch, err := l.Cache.NewScratch(ctx, cache.ScratchRequest{ID: req.ID, Size: req.Size, Form: scratchForm(req.Form)})
	return jobs.Scratch{Dir: scratch.Dir, Disk: scratch.Disk}, err
}
