package untrusted

import (
	"context"
	"fmt"
	"io"
)

// Interruptible ends a reading with its context.
func Interruptible(ctx context.Context, from io.Reader) io.Reader {
	return &interruptibleReader{ctx, from}
}

type interruptibleReader struct {
	ctx  context.Context //nolint:containedctx // of the one reading
	from io.Reader
}

// Read is io.Reader's.
func (r *interruptibleReader) Read(p []byte) (int, error) {
	if r.ctx.Err() != nil {
		return 0, fmt.Errorf("interrupted: %w", context.Cause(r.ctx))
	}
	return r.from.Read(p)
}
