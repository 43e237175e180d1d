package cache_test

import (
	"context"
	"testing"

	"github.com/airlock-ci/airlock/cache"
	"github.com/airlock-ci/airlock/internal/joblog"
	"github.com/airlock-ci/airlock/testing/conformance"
)

func TestConformance(t *testing.T) {
	open := func(o conformance.LayersOptions) (conformance.Layers, error) {
		c, err := cache.New(cache.Options{Dir: o.Dir, RunDir: o.RunDir, DiskLimit: o.DiskLimit, InsecureRegistries: []string{o.Registry}})
		return adapter{c}, err
	}
	conformance.TestLayers(t, conformance.LayersEnv{
		Open: open,
		KillPoints: []string{
			"cache-unpacked", "cache-commit", "cache-disk", "cache-disk-named",
			"scratch-guest", "scratch-disk", "scratch-attached", "scratch-mounted",
		},
	})
}

// adapter makes a cache the suite's Layers.
type adapter struct{ *cache.Cache }

func (a adapter) Base(ctx context.Context, image, pullPolicy, holder string, log *joblog.Log) ([]string, bool, error) {
	base, err := a.Cache.Base(ctx, cache.Request{Image: image, PullPolicy: pullPolicy, Holder: holder}, log)
	return base.Layers, base.Pulled, err
}

func (a adapter) Disk(ctx context.Context, image, holder string) (string, error) {
	base, err := a.Cache.Base(ctx, cache.Request{Image: image, PullPolicy: "if-not-present", Holder: holder, Form: cache.FormDisk}, nil)
	return base.Disk, err
}

func (a adapter) NewScratchDisk(ctx context.Context, id string, size int64) (string, error) {
	scratch, err := a.Cache.NewScratch(ctx, cache.ScratchRequest{ID: id, Size: size, Form: cache.FormDisk})
	return scratch.Disk, err
}

func (a adapter) NewScratch(ctx context.Context, id string, size int64) (string, error) {
	scratch, err := a.Cache.NewScratch(ctx, cache.ScratchRequest{ID: id, Size: size})
	return scratch.Dir, err
}

func (a adapter) Images(ctx context.Context) (int, error) {
	images, err := a.List(ctx)
	return len(images), err
}

func (a adapter) Used() int64 {
	usage, err := a.Usage()
	if err != nil {
		panic(err)
	}
	return usage.Used.Bytes
}
