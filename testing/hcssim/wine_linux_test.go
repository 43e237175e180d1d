package hcssim_test

import (
	"testing"

	"github.com/airlock-ci/airlock/testing/hcssim"
)

const client = "./testing/hcssim/client"

// TestShared runs everything that does not need a container's own view of its files, with three variations of what the
// service leaves open.
func TestShared(t *testing.T) {
	for _, seed := range []uint64{1, 2, 0} {
		t.Run("", func(t *testing.T) {
			s := hcssim.Start(t, hcssim.Options{Seed: seed})
			s.Test(t, client, "-test.skip=TestDiscard|TestFault")
		})
	}
}

// TestIsolated runs what needs it.
func TestIsolated(t *testing.T) {
	s := hcssim.Start(t, hcssim.Options{Guest: hcssim.Isolated})
	s.Test(t, client, "-test.run=TestDiscard|TestArgon|TestXenon|TestGrandchild|TestParallel")
}
