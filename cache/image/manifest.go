package image

import (
	"bytes"
	"encoding/json"
	"mime"
	"regexp"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/airlock-ci/airlock/cache/untrusted"
	"github.com/airlock-ci/airlock/internal/bytesize"
	"github.com/airlock-ci/airlock/internal/fault"
)

const (
	// MaxManifest bounds manifests and indexes, in bytes; registries need accept no larger ones (OCI Distribution
	// Specification, "Pushing Manifests").
	MaxManifest = 4 << 20
	// MaxLayers is the most that an image may have: Docker's own bound.
	MaxLayers = 127
	// maxEntries is the most that an index may have.
	maxEntries = 1000
)

// TooLargeManifest refuses a manifest of more than MaxManifest bytes.
func TooLargeManifest(ref Reference) error {
	return fault.Authorf("image %s: its manifest is larger than %s", ref.Asked, bytesize.Format(MaxManifest))
}

// outline is as much of a manifest as tells what it is. Its parts are decoded when their number is known.
type outline struct {
	SchemaVersion int               `json:"schemaVersion"`
	MediaType     types.MediaType   `json:"mediaType"`
	ArtifactType  types.MediaType   `json:"artifactType"`
	Config        json.RawMessage   `json:"config"`
	Layers        []json.RawMessage `json:"layers"`
	Manifests     []json.RawMessage `json:"manifests"`
	FSLayers      []json.RawMessage `json:"fsLayers"`
	Blobs         []json.RawMessage `json:"blobs"`
}

// ArtifactManifest is what a release candidate of OCI's image specification 1.1 had; some registries keep such.
const ArtifactManifest = "application/vnd.oci.artifact.manifest.v1+json"

// readOutline finds out what a document is: an index or an image's manifest. What says of itself that it is both, or that it
// is one and is the other, is refused, as two readers could take it for two images (CVE-2021-41190). Servers announce
// documents under many types, "application/json" among them; what a document says of itself counts more, and its form most.
func readOutline(ref Reference, doc Document) (o outline, isIndex bool, err error) {
	if err := json.Unmarshal(doc.Content, &o); err != nil {
		return o, false, fault.Authorf("image %s: its manifest is broken: it is not the JSON of one", ref.Asked)
	}
	declared := o.MediaType
	if declared == "" {
		declared = baseType(doc.MediaType)
	}
	hasIndex, hasImage := o.Manifests != nil, o.Layers != nil || o.Config != nil
	switch {
	case declared.IsSchema1() || !hasIndex && !hasImage && (o.SchemaVersion == 1 || o.FSLayers != nil):
		return o, false, fault.WithRemedy(fault.Authorf("image %s: its manifest has the old schema 1, which nothing writes any more", ref.Asked),
			"push it again with a current tool")
	case declared == ArtifactManifest || !hasIndex && !hasImage && o.Blobs != nil:
		return o, false, noImage(ref, o.ArtifactType)
	case hasIndex && hasImage || hasIndex && declared.IsImage() || hasImage && declared.IsIndex():
		return o, false, fault.Authorf("image %s: its manifest contradicts itself: it is an image and an index", ref.Asked)
	case hasIndex:
		if len(o.Manifests) > maxEntries {
			return o, false, fault.Authorf("image %s: its index has more than %d entries", ref.Asked, maxEntries)
		}
		return o, true, nil
	case !hasImage:
		return o, false, fault.Authorf("image %s is something else: its manifest is neither an image's nor an index", ref.Asked)
	case o.SchemaVersion != 2:
		return o, false, fault.Authorf("image %s: its manifest is broken: it does not have schema version 2", ref.Asked)
	case len(o.Layers) > MaxLayers:
		return o, false, fault.Authorf("image %s has %d layers, %d are allowed", ref.Asked, len(o.Layers), MaxLayers)
	}
	return o, false, nil
}

// baseType is a media type without its parameters, in lower case.
func baseType(mediaType types.MediaType) types.MediaType {
	base, _, err := mime.ParseMediaType(string(mediaType))
	if err != nil {
		base, _, _ = strings.Cut(string(mediaType), ";")
		base = strings.ToLower(strings.TrimSpace(base))
	}
	return types.MediaType(base)
}

// parseManifest reads an image's manifest and refuses what is no image.
func parseManifest(ref Reference, doc Document, o outline) (*v1.Manifest, error) {
	manifest, err := v1.ParseManifest(bytes.NewReader(doc.Content))
	if err != nil {
		return nil, fault.Authorf("image %s: its manifest is broken: its entries are not descriptors", ref.Asked)
	}
	config := baseType(manifest.Config.MediaType)
	if !isConfigType(string(manifest.Config.MediaType)) {
		if o.ArtifactType != "" && config == types.OCIEmptyJSON {
			config = o.ArtifactType
		}
		return nil, noImage(ref, config)
	}
	for i, layer := range manifest.Layers {
		if kind := baseType(layer.MediaType); strings.HasSuffix(string(kind), "+encrypted") {
			return nil, fault.Authorf("image %s: its layers are encrypted", ref.Asked)
		} else if !generic(kind) && !layerType.MatchString(string(kind)) {
			return nil, noImage(ref, kind)
		}
		if layer.Size <= 0 {
			return nil, fault.Authorf("image %s: its manifest is broken: it gives layer %d the size %d", ref.Asked, i+1, layer.Size)
		}
		if !IsDigest(layer.Digest.String()) {
			return nil, fault.Authorf("image %s: its manifest is broken: layer %d has no digest of sha256 or sha512", ref.Asked, i+1)
		}
	}
	if size := manifest.Config.Size; size <= 0 || size > maxConfig {
		return nil, fault.Authorf("image %s: its manifest is broken: it gives the configuration the size %d, up to %d is allowed", ref.Asked, size, maxConfig)
	}
	return manifest, nil
}

// isConfigType reports whether a manifest with such a configuration may be an image's.
func isConfigType(mediaType string) bool {
	kind := baseType(types.MediaType(mediaType))
	return kind.IsConfig() || generic(kind)
}

var digestPattern = regexp.MustCompile(`^sha(256:[0-9a-f]{64}|512:[0-9a-f]{128})$`)

// IsDigest reports whether a text is a digest of a kind that images are named by.
func IsDigest(text string) bool { return digestPattern.MatchString(text) }

// layerType matches what layers of file systems are called: tars, compressed or not, by whatever means.
var layerType = regexp.MustCompile(`[./+-]tar([.+-]|$)`)

// generic reports whether a type says nothing. Docker before 1.10, and some registries, gave such to configurations.
func generic(mediaType types.MediaType) bool {
	return slices.Contains([]types.MediaType{"", "application/octet-stream", "application/json", "text/plain"}, mediaType)
}

// artifacts are what registries hold beside images, by what their types begin with.
var artifacts = []struct{ prefix, name string }{
	{"application/vnd.cncf.helm.", "a Helm chart"},
	{"application/vnd.dev.cosign.", "a cosign signature or attestation"},
	{"application/vnd.dev.sigstore.", "a Sigstore bundle"},
	{"application/vnd.cncf.notary.", "a Notary signature"},
	{"application/vnd.in-toto", "a build attestation"},
	{"application/vnd.docker.attestation.", "a build attestation"},
	{"application/vnd.docker.plugin.", "a Docker plugin"},
	{"application/vnd.wasm.", "a WebAssembly module"},
	{"application/vnd.cyclonedx", "a bill of materials"},
	{"application/spdx", "a bill of materials"},
	{"text/spdx", "a bill of materials"},
	{"application/vnd.buildkit.cacheconfig.", "a build cache"},
	{"application/vnd.sylabs.sif.", "a Singularity image"},
}

// noImage refuses what is no image by the name of what it is.
func noImage(ref Reference, artifact types.MediaType) error {
	what := "an OCI artifact without a type"
	if kind := baseType(artifact); kind != "" && kind != types.OCIEmptyJSON {
		text := untrusted.Printable(string(kind), 100)
		what = "an OCI artifact of type " + text
		for _, known := range artifacts {
			if strings.HasPrefix(string(kind), known.prefix) {
				what = known.name + " (" + text + ")"
				break
			}
		}
	}
	return fault.WithRemedy(fault.Authorf("image %s is no image: it is %s", ref.Asked, what), "name an image")
}
