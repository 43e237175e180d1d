package main

import (
	"context"
	"io"

	"github.com/airlock-ci/airlock/cache"
	"github.com/airlock-ci/airlock/isolation"
	"github.com/airlock-ci/airlock/jobs"
)

// layers makes a cache what jobs expect. Cache and isolation know nothing of each other; here they meet.
type layers struct{ *cache.Cache }

func (l layers) Base(ctx context.Context, req jobs.BaseRequest, progress io.Writer) (jobs.Base, error) {
	credentials := make([]cache.Credentials, 0, len(req.Credentials))
	for _, c := range req.Credentials {
		if c.Type == "registry" {
			credentials = append(credentials, cache.Credentials{Registry: c.URL, Username: c.Username, Password: c.Password})
		}
	}
	base, err := l.Cache.Base(ctx, cache.Request{
		Image: req.Image, PullPolicy: req.PullPolicy, Holder: req.Holder,
		Credentials: credentials, AllowLocal: req.Trusted, Form: form(req.Level),
	}, progress)
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
