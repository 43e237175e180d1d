package hcs

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/airlock-ci/airlock/isolation"
)

// Version is a version of Windows. Major 0 means unknown.
type Version struct {
	Major, Minor uint32
	// Build tells releases apart, Revision their updates.
	Build, Revision uint32
}

// Builds of releases that the rules name.
const (
	build2022 = 20348
	build2025 = 26100
)

// ParseVersion reads an image's os.version, "10.0.20348.2700"; revision and what follows may be missing.
func ParseVersion(text string) (Version, error) {
	parts := strings.Split(text, ".")
	if len(parts) < 3 {
		return Version{}, fmt.Errorf("%q is not a version of Windows", text)
	}
	var numbers [4]uint32
	for i, part := range parts {
		if i == len(numbers) {
			break
		}
		n, err := strconv.ParseUint(part, 10, 32)
		if err != nil {
			return Version{}, fmt.Errorf("%q is not a version of Windows", text)
		}
		numbers[i] = uint32(n)
	}
	return Version{numbers[0], numbers[1], numbers[2], numbers[3]}, nil
}

// String is "10.0.20348", with the revision when that is known.
func (v Version) String() string {
	s := fmt.Sprintf("%d.%d.%d", v.Major, v.Minor, v.Build)
	if v.Revision != 0 {
		s += fmt.Sprintf(".%d", v.Revision)
	}
	return s
}

// Fits reports whether an image can run at a level on a host, and if not, why; the reason reads after "because".
//
// Process level (osversion.CheckHostAndContainerCompat of hcsshim): before Windows Server 2022 the builds must be the
// same; from then on a host runs images from the long-term release before its own up to its own build. Hypervisor
// level (Microsoft's table "Windows container version compatibility"): an image not newer than the host. An image that
// does not tell its version fits nothing but a kernel of its own.
func Fits(level isolation.Level, host Version, image string) (fits bool, reason string) {
	if image == "" {
		if level == isolation.HypervisorLevel {
			return true, ""
		}
		return false, "the image does not say which build of Windows it was made for"
	}
	version, err := ParseVersion(image)
	if err != nil {
		return false, "of the image's os.version: " + err.Error()
	}
	if version.Major != host.Major || version.Minor != host.Minor {
		return false, fmt.Sprintf("the image is for Windows %s and this host is %s", version, host)
	}
	switch level {
	case isolation.HypervisorLevel:
		if version.Build <= host.Build {
			return true, ""
		}
		return false, fmt.Sprintf("the image's build %d is newer than this host's %d", version.Build, host.Build)
	case isolation.ProcessLevel:
		if least := oldestBuild(host.Build); version.Build < least || version.Build > host.Build {
			return false, fmt.Sprintf("the image's build %d does not share a kernel with this host's build %d, which takes %s",
				version.Build, host.Build, buildRange(least, host.Build))
		}
		return true, ""
	default:
		return false, fmt.Sprintf("%s is no level", level)
	}
}

// oldestBuild is the oldest image that a host's kernel runs.
func oldestBuild(host uint32) uint32 {
	switch {
	case host < build2022:
		return host
	case host > build2025:
		return build2025
	default: // 2022 itself, and up to 2025: the long-term release before
		return build2022
	}
}

func buildRange(least, most uint32) string {
	if least == most {
		return fmt.Sprintf("build %d alone", most)
	}
	return fmt.Sprintf("builds %d to %d", least, most)
}
