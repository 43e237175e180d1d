package cache

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"

	"github.com/Microsoft/hcsshim/ext4/tar2ext4"

	"github.com/airlock-ci/airlock/internal/bytesize"
	"github.com/airlock-ci/airlock/internal/fault"
)

// writeDisk writes to an empty file an ext4 file system, without a journal and for reading only, with what an
// overlay of the layers shows. It has an empty /lost+found besides, as the format demands, unless the image has
// one of its own. It asks room for what it is about to write.
func writeDisk(ctx context.Context, file *os.File, layers []string, room func(Use) error) error {
	reader, writer := io.Pipe()
	merged := make(chan error, 1)
	go func() {
		err := merge(ctx, layers, writer)
		_ = writer.CloseWithError(err)
		merged <- err
	}()
	disk := &sparseFile{file: file, room: room}
	err := convert(reader, disk)
	_ = reader.CloseWithError(errAbandoned)
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
		return fault.WithRemedy(fault.Authorf("the image holds what its disk of %s cannot: %w", bytesize.Format(DiskSize), err),
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
	return tar2ext4.ConvertTarToExt4(from, to, tar2ext4.MaximumDiskSize(DiskSize))
}

// sparseFile is a new file in which blocks of zeros stay holes.
type sparseFile struct {
	file *os.File
	room func(Use) error // fails when there is no room for what is to be written
	pos  int64
	end  int64 // nothing was written from here on
	err  error // of the host, not of what is written
}

// Read is io.Reader's.
func (s *sparseFile) Read(p []byte) (int, error) {
	n, err := s.file.ReadAt(p, s.pos)
	s.pos += int64(n)
	return n, err
}

// Seek is io.Seeker's.
func (s *sparseFile) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekStart:
		s.pos = offset
	case io.SeekCurrent:
		s.pos += offset
	default:
		s.pos = s.end + offset
	}
	return s.pos, nil
}

// Write is io.Writer's.
func (s *sparseFile) Write(p []byte) (int, error) {
	for from := 0; from < len(p); {
		to, hole := s.run(p, from)
		if !hole {
			if s.err = s.room(Use{Bytes: int64(to - from)}); s.err != nil {
				return from, s.err
			}
			if _, s.err = s.file.WriteAt(p[from:to], s.pos+int64(from)); s.err != nil {
				return from, s.err
			}
		}
		from = to
	}
	s.pos += int64(len(p))
	s.end = max(s.end, s.pos)
	return len(p), nil
}

// run returns how far p, from a place on, is one hole or has none.
func (s *sparseFile) run(p []byte, from int) (to int, hole bool) {
	var zeros [blockSize]byte
	for to = from; to < len(p); {
		at := s.pos + int64(to)
		n := min(blockSize-int(at%blockSize), len(p)-to)
		empty := at >= s.end && bytes.Equal(p[to:to+n], zeros[:n])
		if to == from {
			hole = empty
		}
		if empty != hole {
			break
		}
		to += n
	}
	return to, hole
}

// allocated is what a file takes on the host, in bytes.
func allocated(info fs.FileInfo) int64 {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return st.Blocks * 512
	}
	return info.Size()
}
