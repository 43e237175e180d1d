//go:build wine

package layer

import (
	"testing"

	"github.com/airlock-ci/airlock/testing/hcssim"
)

// TestGuardOnSimulatedWindows runs the guard of a layer's tar under Wine.
func TestGuardOnSimulatedWindows(t *testing.T) {
	hcssim.Start(t, hcssim.Options{}).Test(t, "./cache/layer", "-test.run=^TestGuard$")
}
