package archive

import (
	"errors"
	"io"
	"io/fs"
	"os"

	"github.com/airlock-ci/airlock/cache/space"
	"github.com/airlock-ci/airlock/internal/fault"
)

// Spool writes an archive that an administrator sends to a file, uncompressed. It asks room for what it is about to write,
// and fails beyond limit bytes.
func Spool(file string, from io.Reader, room func(space.Use) error, limit int64) error {
	received := &failing{from: from}
	plain, err := uncompressed(received)
	var n int64
	if err == nil {
		defer plain.Close()
		var f *os.File
		if f, err = os.Create(file); err != nil {
			return fault.Systemf("receiving the image: %w", err)
		}
		n, err = io.Copy(&roomy{room, f}, io.LimitReader(plain, limit+1))
		err = errors.Join(err, f.Close())
	}
	var ours *fs.PathError
	switch {
	case received.err != nil:
		return fault.Systemf("receiving the image: %w", received.err)
	case errors.As(err, &ours):
		return fault.Systemf("receiving the image: %w", err)
	case err != nil:
		return broken(err)
	case n > limit:
		return space.TooLarge(limit)
	}
	return nil
}

// failing remembers why reading failed.
type failing struct {
	from io.Reader
	err  error
}

// Read is io.Reader's.
func (f *failing) Read(p []byte) (int, error) {
	n, err := f.from.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		f.err = err
	}
	return n, err
}

// roomy writes where there is room for it.
type roomy struct {
	room func(space.Use) error
	to   io.Writer
}

// Write is io.Writer's.
func (r *roomy) Write(p []byte) (int, error) {
	if err := r.room(space.Use{Bytes: int64(len(p))}); err != nil {
		return 0, err
	}
	return r.to.Write(p)
}

// broken is the fault of an archive that cannot be read.
func broken(err error) error {
	if classified := (*fault.Error)(nil); errors.As(err, &classified) {
		return err
	}
	return fault.WithRemedy(fault.Adminf("reading the image: %w", err),
		"send a tar, as it is or compressed with gzip or zstd: a docker archive or an OCI layout")
}
