package runtimetest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/airlock-ci/airlock/internal/mountns"
	"github.com/airlock-ci/airlock/isolation/cgroup"
)

// Main runs a package's tests in a mount namespace, as the executor is in one: in it, nobody else's mounts come and go.
// First prepare makes what the tests share, in a directory that ends with them. Afterwards the cgroup parent, above all
// that these tests make, is removed, unless another process has something in it. Main returns the process's status.
func Main(m *testing.M, parent string, prepare func(dir string) error) (status int) {
	if err := mountns.Enter(); err != nil {
		fmt.Fprintln(os.Stderr, "these tests make sandboxes, which needs root:", err)
		return 1
	}
	dir, err := os.MkdirTemp("", parent+"-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() { _ = os.RemoveAll(dir) }()
	if err := prepare(dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer removeCgroups(parent)
	return m.Run()
}

// Cgroup is a cgroup below parent for one of this process's tests.
func Cgroup(parent string, test int64) string {
	return fmt.Sprintf("%s/%d-%d", parent, os.Getpid(), test)
}

// ownCgroups are the directories of this process's cgroups below a parent's.
func ownCgroups(dir string) []string {
	own, _ := filepath.Glob(filepath.Join(dir, fmt.Sprintf("%d-*", os.Getpid())))
	return own
}

func removeCgroups(parent string) {
	groups, err := cgroup.New(parent)
	if err != nil {
		return
	}
	for _, dir := range groups.Parents() {
		for _, own := range append(ownCgroups(dir), dir) {
			_ = unix.Rmdir(own)
		}
	}
}

// Build builds a command of this module for sandboxes, where no library is: static, and small.
func Build(output, pkg string) error {
	build := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", output, pkg)
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("building %s: %w\n%s", pkg, err, out)
	}
	return nil
}
