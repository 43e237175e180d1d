package doctor

import (
	"fmt"
	"regexp"
)

// gvisorDate finds the day in gVisor's version: "runsc version release-20240807.0", and Debian's "0.0~20221219.0".
var gvisorDate = regexp.MustCompile(`\b20[0-9]{6}\b`)

// gvisorNetworks is the first day of a gVisor that knows its network namespace on Linux 6.11 and later, which shows
// /proc/sys/net/core/rmem_default in each of them. Before, a gVisor took each for the host's, and refused it.
const gvisorNetworks = "20240801"

// checkGVisor says which gVisor it is and what it cannot do, on a kernel of this release ("6.12.0-1-amd64").
func checkGVisor(r *report, path, version, release string) {
	var major, minor int
	_, _ = fmt.Sscanf(release, "%d.%d", &major, &minor) // checkKernel says what cannot be read
	day := gvisorDate.FindString(version)
	if day != "" && day < gvisorNetworks && (major > 6 || major == 6 && minor >= 11) {
		r.fail("runtime", `install a gVisor of August 2024 or later, use crun, or set network_mode = "none"`,
			"%s, %s (gVisor): on Linux %s it cannot give a job a network", path, version, release)
	} else {
		r.ok("runtime", "%s, %s (gVisor)", path, version)
	}
	r.info("gVisor", "at the memory limit a job ends as a whole, pids_limit is no exact bound, and users other than root have "+
		"neither every ping nor the caches of other users")
}
