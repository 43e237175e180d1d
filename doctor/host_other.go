//go:build !linux && !windows

package doctor

import (
	"context"

	"github.com/airlock-ci/airlock/config"
)

// checkHost has one finding: no sandbox can be made on this operating system.
func checkHost(_ context.Context, r *report, _ Options, _ *config.Config) {
	r.fail("operating system", "run the service on Linux", "sandboxes cannot be made on %s", platform())
}
