package image

import (
	"bytes"
	"cmp"
	"slices"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/airlock-ci/airlock/internal/fault"
)

// pick is an entry of an index.
type pick struct {
	desc v1.Descriptor
	// varies says that a better or a lesser processor might get another one.
	varies bool
}

// pickPlatform returns the best entry of an index for a platform; entries without a platform are taken when they are the
// only ones (layout directories have such).
func pickPlatform(ref Reference, doc Document, o outline, platform v1.Platform) (pick, error) {
	index, err := v1.ParseIndexManifest(bytes.NewReader(doc.Content))
	if err != nil {
		return pick{}, fault.Authorf("image %s: its index is broken: its entries are not descriptors", ref.Asked)
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
		case RunsOn(desc.Platform, platform):
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
			fault.Authorf("image %s: %d images match", ref.Asked, len(unmarked)), "name one by its tag or digest")
	case len(offered) == 0 && o.ArtifactType != "":
		return pick{}, noImage(ref, o.ArtifactType)
	case len(offered) == 0:
		return pick{}, fault.Authorf("image %s is no image: its index names none", ref.Asked)
	}
	return pick{}, WrongPlatform(ref, offered, platform)
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
