package image

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/klauspost/cpuid/v2"

	"github.com/airlock-ci/airlock/cache/untrusted"
	"github.com/airlock-ci/airlock/internal/fault"
)

// processorVariant is the variant of this host's architecture that its processor is: the x86-64 level that it has and the
// system lets programs use; empty for other architectures.
func processorVariant() string {
	if n := cpuid.CPU.X64Level(); n > 0 {
		return "v" + strconv.Itoa(n)
	}
	return ""
}

// LeastPlatform is this host's, with the processor that every sandbox has at least: what is imported is for all of them.
func LeastPlatform() v1.Platform {
	platform := HostPlatform()
	platform.Variant = ""
	return platform
}

// PlatformFor is what an image has to be for: this host's platform, as far as the job's own wish and the variant of the
// sandbox's processor let it; each may be empty.
func PlatformFor(image, wish, variant string) (v1.Platform, error) {
	platform := HostPlatform()
	if variant != "" {
		platform.Variant = variant
	}
	if wish == "" {
		return platform, nil
	}
	wanted, err := parsePlatform(wish)
	if err != nil {
		return v1.Platform{}, fault.WithRemedy(fault.Authorf("image %s: the platform %q cannot be read", image, untrusted.Printable(wish, 60)),
			"write os/architecture, as in linux/amd64")
	}
	if !RunsOn(&wanted, platform) {
		return v1.Platform{}, fault.WithRemedy(fault.Authorf("image %s is wanted for the platform %s, and this runner's jobs run on %s",
			image, untrusted.Printable(wanted.String(), 60), described(platform, wanted)), "take that platform out of image:docker:platform, or use a runner of it")
	}
	if level(wanted) > 0 && wanted.Variant != "" {
		platform.Variant = wanted.Variant
	}
	return platform, nil
}

// parsePlatform reads the forms that Docker takes: "linux", "arm64", "linux/arm64", "arm64/v8", "linux/arm64/v8", and
// the names that kernels have for architectures. What is left out is this host's.
func parsePlatform(text string) (v1.Platform, error) {
	parts := strings.Split(strings.ToLower(strings.TrimSpace(text)), "/")
	if len(parts) > 3 || slices.Contains(parts, "") {
		return v1.Platform{}, fmt.Errorf("%q is no platform", text)
	}
	host := HostPlatform()
	platform := v1.Platform{OS: host.OS, Architecture: host.Architecture}
	if slices.Contains([]string{"linux", "windows", "darwin", "freebsd"}, parts[0]) || len(parts) == 3 {
		platform.OS, parts = parts[0], parts[1:]
	}
	if len(parts) > 0 {
		platform.Architecture = parts[0]
		switch parts[0] {
		case "x86_64", "x86-64":
			platform.Architecture = "amd64"
		case "aarch64":
			platform.Architecture = "arm64"
		case "i386", "i686":
			platform.Architecture = "386"
		case "armhf", "armel":
			platform.Architecture = "arm"
		}
	}
	if len(parts) > 1 {
		platform.Variant = parts[1]
	}
	return platform, nil
}

// maxOffered is how many platforms a refusal names.
const maxOffered = 12

// WrongPlatform refuses an image that is there for some platforms, and for none that is run here.
func WrongPlatform(ref Reference, offered []string, platform v1.Platform) error {
	slices.Sort(offered)
	offered = slices.Compact(offered)
	more := ""
	if len(offered) > maxOffered {
		more = fmt.Sprintf(" and %d more", len(offered)-maxOffered)
		offered = offered[:maxOffered]
	}
	if plain := platform.OS + "/" + platform.Architecture; !slices.ContainsFunc(offered, func(o string) bool { return strings.HasPrefix(o, plain+"/") }) {
		platform.Variant = "" // that is not the difference
	}
	return fault.WithRemedy(fault.Authorf("image %s is for %s%s, this runner is %s", ref.Asked, untrusted.Printable(strings.Join(offered, ", "), 400), more, platform),
		"use an image of that platform, or a runner of another one")
}

// described is a platform with as much detail as tells it from another one.
func described(platform, from v1.Platform) v1.Platform {
	if platform.OS != from.OS || platform.Architecture != from.Architecture {
		platform.Variant = ""
	}
	return platform
}

// PlatformOf is the platform that an image's configuration names; what it leaves out is the host's.
func PlatformOf(config *v1.ConfigFile, host v1.Platform) v1.Platform {
	return v1.Platform{OS: cmp.Or(config.OS, host.OS), Architecture: cmp.Or(config.Architecture, host.Architecture),
		Variant: config.Variant, OSVersion: config.OSVersion}
}

// RunsOn reports whether a host can run images of a platform: the same system and architecture, a processor that has
// what they need, and on Windows a build that is not newer than the host's.
func RunsOn(image *v1.Platform, host v1.Platform) bool {
	return image.OS == host.OS && image.Architecture == host.Architecture && runsVariant(*image, host) && runsVersion(image.OSVersion, host.OSVersion)
}

// runsVariant compares variants of one architecture. Those of amd64 are the levels of the x86-64 ABI, each of which includes
// those below; every arm64 processor is a v8, and what more it has no name tells well enough. Of other architectures any is
// taken: their names are not ordered, and a wrong one fails at once.
func runsVariant(image, host v1.Platform) bool {
	switch image.Architecture {
	case "amd64":
		return level(image) > 0 && level(image) <= level(host)
	case "arm64":
		return image.Variant == "" || image.Variant == "v8"
	default:
		return true
	}
}

// level is the x86-64 level of a platform, 1 to 4; 0 for other architectures, and for variants that are none. Without a
// variant it is 1: what every such processor has.
func level(p v1.Platform) int {
	if p.Architecture != "amd64" {
		return 0
	}
	if p.Variant == "" {
		return 1
	}
	return slices.Index([]string{"v1", "v2", "v3", "v4"}, p.Variant) + 1
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

// versionNumbers reads "10.0.20348.2700"; what is missing or no number counts as 0.
func versionNumbers(version string) (numbers [4]uint64) {
	for i, part := range strings.SplitN(version, ".", 5) {
		if i < len(numbers) {
			numbers[i], _ = strconv.ParseUint(part, 10, 64)
		}
	}
	return numbers
}
