//go:build !linux

package cache

import (
	"context"
	"io"
	"io/fs"
	"os"
	"runtime"

	"github.com/airlock-ci/airlock/executor/api/fault"
)

func errUnsupported() error {
	return fault.Adminf("this cache does not work on %s: layers and scratches are made on Linux only", runtime.GOOS)
}

func lockDir(string) (*os.File, error) { return nil, errUnsupported() }

func syncFileSystem(string) error { return errUnsupported() }

func unpack(context.Context, string, io.Reader, *budget) (int64, error) { return 0, errUnsupported() }

func writeDisk(context.Context, *os.File, []string) error { return errUnsupported() }

func allocated(info fs.FileInfo) int64 { return info.Size() }

type scratches struct{}

func newScratches(*Cache) (*scratches, error) { return nil, errUnsupported() }

func (s *scratches) create(context.Context, ScratchRequest) (Scratch, error) {
	return Scratch{}, errUnsupported()
}

func (s *scratches) destroy(context.Context, string) error { return errUnsupported() }

func (s *scratches) usage(string) (int64, error) { return 0, errUnsupported() }
