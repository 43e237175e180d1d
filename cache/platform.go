package cache

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/klauspost/cpuid/v2"

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

// leastPlatform is this host's, with the processor that every sandbox has at least: what is imported is for all of them.
func leastPlatform() v1.Platform {
	platform := hostPlatform()
	platform.Variant = ""
	return platform
}

// platform is what an image has to be for to be made for a request: this host's, as far as the sandbox's processor and the
// job's own wish let it.
func (r Request) platform() (v1.Platform, error) {
	platform := hostPlatform()
	if r.Variant != "" {
		platform.Variant = r.Variant
	}
	if r.Platform == "" {
		return platform, nil
	}
	wanted, err := parsePlatform(r.Platform)
	if err != nil {
		return v1.Platform{}, fault.WithRemedy(fault.Authorf("image %s: the platform %q cannot be read", r.Image, printable(r.Platform, 60)),
			"write os/architecture, as in linux/amd64")
	}
	if !runsOn(&wanted, platform) {
		return v1.Platform{}, fault.WithRemedy(fault.Authorf("image %s is wanted for the platform %s, and this runner's jobs run on %s",
			r.Image, printable(wanted.String(), 60), described(platform, wanted)), "take that platform out of image:docker:platform, or use a runner of it")
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
	host := hostPlatform()
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

// pick is an entry of an index.
type pick struct {
	desc v1.Descriptor
	// varies says that a better or a lesser processor might get another one.
	varies bool
}

// pickPlatform returns the best entry of an index for a platform; entries without a platform are taken when they are the
// only ones (layout directories have such).
func pickPlatform(ref reference, doc document, o outline, platform v1.Platform) (pick, error) {
	index, err := v1.ParseIndexManifest(bytes.NewReader(doc.content))
	if err != nil {
		return pick{}, fault.Authorf("image %s: its index is broken: its entries are not descriptors", ref.asked)
	}
	var offered []string
	var fitting, unmarked []v1.Descriptor
	varies := false
	for _, desc := range index.Manifests {
		kind := baseType(desc.MediaType)
		switch {
		case !kind.IsImage() && !kind.IsIndex() && !generic(kind):
		case !isConfigType(desc.ArtifactType) || desc.Annotations["vnd.docker.reference.type"] != "": // signatures, attestations
		case desc.Platform == nil || desc.Platform.OS == "" && desc.Platform.Architecture == "":
			unmarked = append(unmarked, desc)
		case desc.Platform.OS == "unknown": // attestations call themselves that
		case runsOn(desc.Platform, platform):
			fitting = append(fitting, desc)
		default:
			offered = append(offered, desc.Platform.String())
		}
		varies = varies || desc.Platform != nil && level(*desc.Platform) > 1 && desc.Platform.OS == platform.OS
	}
	switch {
	case len(fitting) > 0:
		return pick{best(fitting), varies}, nil
	case len(unmarked) == 1:
		return pick{unmarked[0], varies}, nil
	case len(unmarked) > 1:
		return pick{}, fault.WithRemedy(
			fault.Authorf("image %s: %d images match", ref.asked, len(unmarked)), "name one by its tag or digest")
	case len(offered) == 0 && o.ArtifactType != "":
		return pick{}, noImage(ref, o.ArtifactType)
	case len(offered) == 0:
		return pick{}, fault.Authorf("image %s is no image: its index names none", ref.asked)
	}
	return pick{}, wrongPlatform(ref, offered, platform)
}

// maxOffered is how many platforms a refusal names.
const maxOffered = 12

func wrongPlatform(ref reference, offered []string, platform v1.Platform) error {
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
	return fault.WithRemedy(fault.Authorf("image %s is for %s%s, this runner is %s", ref.asked, printable(strings.Join(offered, ", "), 400), more, platform),
		"use an image of that platform, or a runner of another one")
}

// described is a platform with as much detail as tells it from another one.
func described(platform, from v1.Platform) v1.Platform {
	if platform.OS != from.OS || platform.Architecture != from.Architecture {
		platform.Variant = ""
	}
	return platform
}

// platformOf is the platform that an image's configuration names; what it leaves out is the host's.
func platformOf(config *v1.ConfigFile, host v1.Platform) v1.Platform {
	return v1.Platform{OS: cmp.Or(config.OS, host.OS), Architecture: cmp.Or(config.Architecture, host.Architecture),
		Variant: config.Variant, OSVersion: config.OSVersion}
}

// platform is the host's, but for the processor that the image needs.
func (i *imageRecord) platform(host v1.Platform) *v1.Platform {
	host.Variant = i.Variant
	return &host
}

// runsOn says whether a host can run images of a platform: the same system and architecture, a processor that has what
// they need, and on Windows a build that is not newer than the host's.
func runsOn(image *v1.Platform, host v1.Platform) bool {
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

// best is the first of the best among the images that a host can run: on Windows that with the newest build, as the
// nearer a build is to the host's, the likelier it can share its kernel; else that which makes the most of the processor. Its
// list is not empty.
func best(fitting []v1.Descriptor) v1.Descriptor {
	return slices.MaxFunc(fitting, func(a, b v1.Descriptor) int {
		x, y := versionNumbers(a.Platform.OSVersion), versionNumbers(b.Platform.OSVersion)
		return cmp.Or(slices.CompareFunc(x[:], y[:], cmp.Compare[uint64]), cmp.Compare(level(*a.Platform), level(*b.Platform)))
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
