package disk

import (
	"bytes"
	"io"
	"os"

	"github.com/airlock-ci/airlock/cache/space"
)

// sparseFile is a new file in which blocks of zeros stay holes.
type sparseFile struct {
	file *os.File
	room func(space.Use) error // fails when there is no room for what is to be written
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
			if s.err = s.room(space.Use{Bytes: int64(to - from)}); s.err != nil {
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
	var zeros [space.BlockSize]byte
	for to = from; to < len(p); {
		at := s.pos + int64(to)
		n := min(space.BlockSize-int(at%space.BlockSize), len(p)-to)
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
