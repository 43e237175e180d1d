package oci

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/airlock-ci/airlock/testing/conformance"
	"github.com/airlock-ci/airlock/testing/rootfs"
	"github.com/airlock-ci/airlock/testing/runtimetest"
)

// What all tests share and none changes.
var shared struct {
	agent  string // the agent's binary
	image  string // the layer of the image
	helper string // the layer of the helper root: the same, with a marker
}

// testParent is the cgroup above all that these tests make.
const testParent = "airlock-oci-test"

func TestMain(m *testing.M) { os.Exit(runtimetest.Main(m, testParent, prepareShared)) }

func prepareShared(dir string) error {
	shared.agent, shared.image, shared.helper = filepath.Join(dir, "agent"), filepath.Join(dir, "image"), filepath.Join(dir, "helper")
	if err := runtimetest.Build(shared.agent, "github.com/airlock-ci/airlock/cmd/airlock-agent"); err != nil {
		return err
	}
	for _, root := range []string{shared.image, shared.helper} {
		if err := rootfs.Busybox(root); err != nil {
			return err
		}
	}
	return os.WriteFile(filepath.Join(shared.helper, conformance.HelperMarker), nil, 0o644)
}
