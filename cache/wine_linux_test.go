//go:build wine

package cache_test

import (
	"testing"

	"github.com/airlock-ci/airlock/testing/hcssim"
)

// TestLayersOnSimulatedWindows imports with the real hcsshim under Wine, against the simulated service of testing/hcssim.
func TestLayersOnSimulatedWindows(t *testing.T) {
	for _, test := range []string{"^TestRealLayers$", "^TestRealBrokenLayers$", "^TestRealTemplates$"} {
		t.Run(test, func(t *testing.T) {
			hcssim.Start(t, hcssim.Options{}).Test(t, "./cache", "-test.run="+test)
		})
	}
}
