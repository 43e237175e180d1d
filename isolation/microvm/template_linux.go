package microvm

import (
	"context"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/airlock-ci/airlock/isolation"
	"github.com/airlock-ci/airlock/isolation/agent"
)

// memoryName is the name of the memory files of guests, which proc shows.
const memoryName = "airlock-guest"

// newMemory returns a file of anonymous memory.
func newMemory(size int64) (*os.File, error) {
	fd, err := unix.MemfdCreate(memoryName, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, fmt.Errorf("making the guest's memory: %w", err)
	}
	file := os.NewFile(uintptr(fd), memoryName)
	if err := file.Truncate(size); err != nil {
		_ = file.Close()
		return nil, fmt.Errorf("making the guest's memory: %w", err)
	}
	return file, nil
}

type template struct{}
type templates struct {
	dir   string
	mutex sync.Mutex
}

func (t *templates) close()                 {}
func (t *templates) discard(*template)      {}
func (r *Runtime) template(shape) *template { return nil }
func (r *Runtime) restoreGuest(ctx context.Context, s *sandbox, spec isolation.Spec, t *template, setup agent.GuestSetup) error {
	return nil
}
