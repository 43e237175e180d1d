package fakes

import (
	"context"
	"testing"

	"github.com/airlock-ci/airlock/internal/joblog"
	"github.com/airlock-ci/airlock/jobs"
	"github.com/airlock-ci/airlock/testing/conformance"
)

func TestLayersConform(t *testing.T) {
	conformance.TestLayers(t, conformance.LayersEnv{
		Open: func(o conformance.LayersOptions) (conformance.Layers, error) {
			l, err := OpenLayers(o.Dir, o.DiskLimit)
			return adapter{l}, err
		},
		Deviations: map[string]string{
			"a scratch is bounded":              "it is a directory, and only a file system has a size",
			"a disk holds what the layers show": "it keeps directories only",
			"a guest's scratch is discarded":    "it keeps directories only",
		},
	})
}

// adapter makes Layers the suite's.
type adapter struct{ *Layers }

func (a adapter) Base(ctx context.Context, image, pullPolicy, holder string, log *joblog.Log) ([]string, bool, error) {
	base, err := a.Layers.Base(ctx, jobs.BaseRequest{Image: image, PullPolicy: pullPolicy, Holder: holder}, log)
	return base.Root.Layers, base.Pulled, err
}

func (a adapter) NewScratch(ctx context.Context, id string, size int64) (string, error) {
	scratch, err := a.Layers.NewScratch(ctx, jobs.ScratchRequest{ID: id, Size: size})
	return scratch.Dir, err
}
