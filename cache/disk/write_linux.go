package disk

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/Microsoft/hcsshim/ext4/tar2ext4"

	"github.com/airlock-ci/airlock/cache/space"
	"github.com/airlock-ci/airlock/internal/bytesize"
	"github.com/airlock-ci/airlock/internal/fault"
)

// Write writes to an empty file an ext4 file system, without a journal and for reading only, with what an
// overlay of the layers shows. It has an empty /lost+found besides, as the format demands, unless the image has
// one of its own. It asks room for what it is about to write.
func Write(ctx context.Context, file *os.File, layers []string, room func(space.Use) error) error {
	reader, writer := io.Pipe()
	merged := make(chan error, 1)
	go func() {
		err := merge(ctx, layers, writer)
		_ = writer.CloseWithError(err)
		merged <- err
	}()
	disk := &sparseFile{file: file, room: room}
	err := convert(reader, disk)
	_ = reader.CloseWithError(errConverted)
	mergeErr := <-merged
	classified := (*fault.Error)(nil)
	switch {
	case ctx.Err() != nil:
		return fault.Systemf("interrupted: %w", context.Cause(ctx))
	case errors.As(disk.err, &classified):
		return disk.err
	case disk.err != nil:
		return fault.Systemf("writing it: %w", disk.err)
	case errors.As(mergeErr, &classified):
		return mergeErr
	case err != nil:
		return fault.WithRemedy(fault.Authorf("the image holds what its disk of %s cannot: %w", bytesize.Format(Size), err),
			"make the image smaller, or run the job at level process")
	}
	return nil
}

// convert runs the converter on a stranger's image: a mistake in it must end that job alone.
func convert(from io.Reader, to io.ReadWriteSeeker) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("the converter gave up: %v", p)
		}
	}()
	return tar2ext4.ConvertTarToExt4(from, to, tar2ext4.MaximumDiskSize(Size))
}

// errConverted ends what is still being merged when the converter has returned, whether it succeeded or not.
var errConverted = errors.New("the converter has returned")
