//go:build wine

package windows

import (
	"testing"

	"github.com/airlock-ci/airlock/testing/hcssim"
)

// TestPartsOnSimulatedWindows runs the tests of what is written anew for Windows, under Wine.
func TestPartsOnSimulatedWindows(t *testing.T) {
	s := hcssim.Start(t, hcssim.Options{})
	for pkg, tests := range map[string]string{
		"./internal/identity": ".", "./internal/private": ".", "./doctor": ".", "./supervisor": "^TestPipesTellRights$", "./driver": "^TestParentGone$",
		"./isolation/network/hns": ".", "./jobs/reaper": "^TestRunnerDirs$",
	} {
		t.Run(pkg, func(t *testing.T) { s.Test(t, pkg, "-test.run="+tests) })
	}
}
