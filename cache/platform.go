package cache

import (
	"cmp"
	"slices"
	"strconv"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// runs says whether this host can run images of a platform, at whatever level: the same system and architecture, and
// on Windows a build that is not newer than the host's.
func runs(image *v1.Platform) bool { return runsOn(image, hostPlatform()) }

func runsOn(image *v1.Platform, host v1.Platform) bool {
	version := host.OSVersion
	host.OSVersion = ""
	return image.Satisfies(host) && runsVersion(image.OSVersion, version)
}

// runsVersion compares builds of Windows; hosts without one, which is to say Linux, take any image. One that does not
// tell its build is taken: the runtime decides.
func runsVersion(image, host string) bool {
	if host == "" || image == "" {
		return true
	}
	i, h := versionNumbers(image), versionNumbers(host)
	return i[0] == h[0] && i[1] == h[1] && i[2] <= h[2]
}

// best is the first of the images that a host can run; on Windows that with the newest build, as the nearer a build is
// to the host's, the likelier it can share its kernel. Its list is not empty.
func best(fitting []v1.Descriptor) v1.Descriptor {
	return slices.MaxFunc(fitting, func(a, b v1.Descriptor) int {
		x, y := versionNumbers(a.Platform.OSVersion), versionNumbers(b.Platform.OSVersion)
		return slices.CompareFunc(x[:], y[:], cmp.Compare[uint64])
	})
}

// versionNumbers reads "10.0.20348.2700"; what is missing or no number counts as 0.
func versionNumbers(version string) (numbers [4]uint64) {
	for i, part := range strings.SplitN(version, ".", 5) {
		if i < len(numbers) {
			numbers[i], _ = strconv.ParseUint(part, 10, 64)
		}
	}
	return numbers
}
