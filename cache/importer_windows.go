package cache

import (
	"context"
	"io"

	"github.com/airlock-ci/airlock/cache/layer"
)

// ImportLayer is the work of the process that Options.Importer starts: see layer.Import.
func ImportLayer(ctx context.Context, dir string, below []string, tar io.Reader, answer io.Writer) error {
	return layer.Import(ctx, dir, below, tar, answer)
}
