package doctor

import (
	"context"
	"errors"
	"io/fs"
	"os"

	"github.com/airlock-ci/airlock/client"
)

// checkService asks a running service for its version. One that does not run is no failure: the checks are
// also for hosts that have yet to become one.
func checkService(ctx context.Context, r *report, options Options) {
	const check = "service"
	if _, err := os.Stat(options.Socket); errors.Is(err, fs.ErrNotExist) {
		r.warn(check, "start it with: airlock service start", "not running: there is no %s", options.Socket)
		return
	}
	service, err := client.Dial(ctx, options.Socket)
	if err != nil {
		r.fail(check, "see the service's own log, and restart it with: airlock service stop; airlock service start", "%v", err)
		return
	}
	defer service.Close()
	version := service.Version()
	if version.Version != options.Version {
		r.warn(check, "restart the service: airlock service stop; airlock service start",
			"it runs version %s, this command is %s", version.Version, options.Version)
		return
	}
	r.ok(check, "answers on %s: version %s, protocol %d", options.Socket, version.Version, version.Protocol)
}
