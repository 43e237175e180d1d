package records

import (
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/airlock-ci/airlock/cache/image"
	"github.com/airlock-ci/airlock/cache/layer"
	"github.com/airlock-ci/airlock/cache/space"
)

// Config is the part of an image's configuration that a sandbox needs.
type Config struct {
	// Env are "KEY=value" pairs.
	Env []string `json:"env,omitempty"`
	// User is as the image says it: "", "name", "uid", "name:group", "uid:gid".
	User string `json:"user,omitempty"`
	// WorkingDir is an absolute path or empty.
	WorkingDir string `json:"working_dir,omitempty"`
	// OSVersion is the build of Windows that the image was made for, "10.0.20348.169"; empty for other systems.
	OSVersion string `json:"os_version,omitempty"`
}

// Image is one unpacked image. It is immutable but for Repos.
type Image struct {
	// Digest is the manifest's, "sha256:..."; of images from a docker archive, which has no manifest, the
	// configuration's (what Docker calls the image's id).
	Digest string  `json:"digest"`
	Config Config  `json:"config"`
	Layers []Layer `json:"layers"` // lowest first
	// Variant is what the image itself says of the processor that it needs, as in "v3"; mostly nothing.
	Variant string `json:"variant,omitempty"`
	// Created is when the record was made here.
	Created time.Time `json:"created"`
	// Repos are the repositories that delivered it, and whether it is private there. "" stands for the
	// administrator, who is never private.
	Repos map[string]bool `json:"repos"`
	// Format is that of this version, or of an earlier one.
	Format int `json:"format"`
	// Omitted is what of the configuration was left out.
	Omitted layer.Omitted `json:"omitted,omitempty"`
	// Pinned is what an administrator said about evicting it; nil: nothing. Records of older versions have nothing.
	Pinned *bool `json:"pinned,omitempty"`

	lastUsed time.Time // the file's mtime
	size     int64     // the file's, in bytes
}

// pinned reports whether no pull evicts the image. What an administrator delivered is, unless they said otherwise.
func (i *Image) pinned() bool {
	if i.Pinned != nil {
		return *i.Pinned
	}
	_, delivered := i.Repos[""]
	return delivered
}

// Format is raised whenever the same image would be unpacked otherwise. Before format 2 a layer was the same
// directory above whichever others.
const Format = 2

// outdated reports whether an image has to be unpacked again. What an administrator imported stays: nobody else has it.
func (i *Image) outdated() bool {
	_, imported := i.Repos[""]
	return i.Format != Format && !imported
}

// Warnings says for the job log what of the image a sandbox does not have.
func (i *Image) Warnings(asked string) []string {
	var all layer.Omitted
	all.AddAll(i.Omitted)
	for _, l := range i.Layers {
		all.AddAll(l.Omitted)
	}
	return all.Warnings(asked)
}

func (i *Image) private() bool {
	for _, private := range i.Repos {
		if !private {
			return false
		}
	}
	return true
}

// recordUse is what the record itself takes: a configuration can be large.
func (i *Image) recordUse() space.Use { return space.Use{Bytes: space.Blocks(i.size), Inodes: 1} }

// valid guards against records that another hand changed: their digests become paths.
func (i *Image) valid() bool {
	for _, l := range i.Layers {
		if !layer.IsID(l.DiffID) {
			return false
		}
	}
	return image.IsDigest(i.Digest) && i.Repos != nil
}

// Stack returns an image's layers by their ids, upper-most first. Images that an earlier version imported may have equal
// ones: the upper one hides the lower one entirely, and overlayfs refuses to stack both.
func (i *Image) Stack() []string {
	seen := map[string]bool{}
	stack := make([]string, 0, len(i.Layers))
	for n := len(i.Layers) - 1; n >= 0; n-- {
		if id := i.Layers[n].DiffID; !seen[id] {
			seen[id] = true
			stack = append(stack, id)
		}
	}
	return stack
}

// Platform is the host's, but for the processor that the image needs.
func (i *Image) Platform(host v1.Platform) *v1.Platform {
	host.Variant = i.Variant
	return &host
}

// Layer is one layer of an image.
type Layer struct {
	// DiffID names the layer here: see IDs.
	DiffID string `json:"diff_id"`
	Size   int64  `json:"size"` // bytes of allocated blocks
	// Inodes is 0 in records of older versions, whose Size is that of the files' contents, and on Windows.
	Inodes  int64         `json:"inodes,omitempty"`
	Omitted layer.Omitted `json:"omitted,omitempty"`
}

// Set notes what a layer is like.
func (l *Layer) Set(stored layer.Stored) {
	l.Size, l.Inodes, l.Omitted = stored.Use.Bytes, stored.Use.Inodes, stored.Omitted
}

func (l Layer) use() space.Use { return space.Use{Bytes: l.Size, Inodes: l.Inodes} }

// UseOf is what layers take, each once.
func UseOf(layers []Layer) (sum space.Use) {
	seen := map[string]bool{}
	for _, l := range layers {
		if !seen[l.DiffID] {
			seen[l.DiffID] = true
			sum = sum.Plus(l.use())
		}
	}
	return sum
}
