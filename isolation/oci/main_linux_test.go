package oci

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/airlock-ci/airlock/isolation/cgroup"
	"github.com/airlock-ci/airlock/isolation/mountns"
	"github.com/airlock-ci/airlock/testing/conformance"
	"github.com/airlock-ci/airlock/testing/rootfs"
)

// What all tests share and none changes.
var shared struct {
	agent  string // the agent's binary
	image  string // the layer of the image
	helper string // the layer of the helper root: the same, with a marker
}

func TestMain(m *testing.M) {
	if err := mountns.Enter(); err != nil {
		fmt.Fprintln(os.Stderr, "these tests make containers, which needs root:", err)
		os.Exit(1)
	}
	os.Exit(run(m))
}

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "airlock-oci-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() { _ = os.RemoveAll(dir) }()
	if err := prepareShared(dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer removeTestCgroups()
	return m.Run()
}

// testParent is the cgroup above all that these tests make.
const testParent = "airlock-oci-test"

// removeTestCgroups removes the parents, which are left to whoever ends last.
func removeTestCgroups() {
	groups, err := cgroup.New(testParent)
	if err != nil {
		return
	}
	for _, parent := range groups.Parents() {
		own, _ := filepath.Glob(filepath.Join(parent, fmt.Sprintf("%d-*", os.Getpid())))
		for _, dir := range append(own, parent) {
			_ = syscall.Rmdir(dir)
		}
	}
}

func prepareShared(dir string) error {
	shared.agent, shared.image, shared.helper = filepath.Join(dir, "agent"), filepath.Join(dir, "image"), filepath.Join(dir, "helper")
	if err := buildStatic(shared.agent, "github.com/airlock-ci/airlock/cmd/airlock-agent"); err != nil {
		return err
	}
	for _, root := range []string{shared.image, shared.helper} {
		if err := rootfs.Busybox(root); err != nil {
			return err
		}
	}
	return os.WriteFile(filepath.Join(shared.helper, conformance.HelperMarker), nil, 0o644)
}

// buildStatic builds a command of this module as it is shipped.
func buildStatic(output, pkg string) error {
	build := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", output, pkg)
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("building %s: %w\n%s", pkg, err, out)
	}
	return nil
}
