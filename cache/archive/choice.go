package archive

import (
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"

	"github.com/airlock-ci/airlock/cache/untrusted"
	"github.com/airlock-ci/airlock/internal/fault"
)

// Choice says which image of an archive is meant.
type Choice struct {
	Pick   string // the archive's name of it, if not empty
	Name   string // else this, if the archive holds several
	Remedy string
}

// among returns which of some images is meant, each given with the names that the archive has for it.
func (c Choice) among(images [][]string) (int, error) {
	wanted := c.Pick
	if wanted == "" && len(images) == 1 {
		return 0, nil
	}
	if wanted == "" {
		wanted = c.Name
	}
	for i, names := range images {
		if wanted != "" && slices.ContainsFunc(names, func(n string) bool { return sameName(n, wanted) }) {
			return i, nil
		}
	}
	var known []string
	for _, names := range images {
		if len(names) == 0 {
			names = []string{"one without a name"}
		}
		known = append(known, names...)
	}
	listed := untrusted.Printable(strings.Join(known, ", "), 2000)
	switch {
	case len(images) == 0:
		return 0, fault.Adminf("the archive holds no image")
	case c.Pick != "":
		return 0, fault.WithRemedy(fault.Adminf("the archive holds no image %q; it holds: %s", untrusted.Printable(c.Pick, 200), listed), c.Remedy)
	default:
		return 0, fault.WithRemedy(fault.Adminf("the archive holds %d images: %s", len(images), listed), c.Remedy)
	}
}

// sameName compares names of images as registries understand them: "debian" is "docker.io/library/debian:latest".
func sameName(a, b string) bool {
	if a == b {
		return true
	}
	refA, errA := name.ParseReference(a, name.WeakValidation)
	refB, errB := name.ParseReference(b, name.WeakValidation)
	return errA == nil && errB == nil && refA.Name() == refB.Name()
}

// firstOf returns the name by which an image was picked, else its first.
func firstOf(names []string, choice Choice) string {
	if choice.Pick != "" {
		return choice.Pick
	}
	return names[0]
}
