package scratch

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"time"

	"golang.org/x/sys/unix"

	"github.com/airlock-ci/airlock/cache/untrusted"
	"github.com/airlock-ci/airlock/internal/fault"
)

func findMkfs() (string, error) {
	mkfs, err := exec.LookPath("mkfs.ext4")
	if err != nil {
		return "", fault.WithRemedy(fault.Adminf("scratches need mkfs.ext4: %w", err),
			"install e2fsprogs, or set the scratch's kind to tmpfs")
	}
	return mkfs, nil
}

// format makes an ext4 file system that is never repaired or grown: no journal, no room to resize, no blocks
// kept back for root, nothing written that can be left to zeros.
func format(ctx context.Context, mkfs, path string) error {
	ctx, cancel := context.WithTimeoutCause(ctx, time.Minute, errors.New("mkfs.ext4 took longer than a minute"))
	defer cancel()
	cmd := exec.CommandContext(ctx, mkfs, "-q", "-F", "-O", "^has_journal,^resize_inode", "-m", "0",
		"-E", "lazy_itable_init=1,nodiscard,packed_meta_blocks=1,root_owner=0:0", path)
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return fault.Systemf("mkfs.ext4: %w: %s", err, untrusted.Printable(output.String(), 500))
	}
	return nil
}

// copySparse makes target, which is empty, equal to source: by sharing its blocks where the file system can,
// else by copying what is not a hole.
func copySparse(target, source *os.File, size int64) error {
	if err := unix.IoctlFileClone(int(target.Fd()), int(source.Fd())); err == nil {
		return nil
	}
	if err := target.Truncate(size); err != nil {
		return err
	}
	for offset := int64(0); offset < size; {
		data, err := unix.Seek(int(source.Fd()), offset, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return nil // only a hole is left
		}
		if err != nil {
			return fmt.Errorf("looking for data: %w", err)
		}
		if offset, err = unix.Seek(int(source.Fd()), data, unix.SEEK_HOLE); err != nil {
			return fmt.Errorf("looking for a hole: %w", err)
		}
		if _, err := io.Copy(io.NewOffsetWriter(target, data), io.NewSectionReader(source, data, offset-data)); err != nil {
			return err
		}
	}
	return nil
}
