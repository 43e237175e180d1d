// Package image says what images are: names, manifests, indexes, configurations, platforms.
//
// It follows a reference through an Origin to the one image that a sandbox's processor runs, and refuses by name what is
// no image. Digests are verified here, whatever delivers the bytes. It opens no connection and no file, and quotes nothing
// of an answer but what is fit for a log. Registry and archive are its origins; the facade asks it.
package image

import (
	"path/filepath"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"

	"github.com/airlock-ci/airlock/internal/fault"
)

// Reference is what an image's name says.
type Reference struct {
	Asked string // as the request wrote it, fit for messages
	Name  string // one spelling for all that mean the same: the key of the name's record
	Repo  string // the repository at its registry; empty for local forms

	Remote name.Reference // of a registry, or nil
	Local  *Local
}

// Local is "oci:/path[:tag][@digest]" or "docker-archive:/path[:image]".
type Local struct {
	Archive     bool
	Path        string
	Tag, Digest string
}

// What images of this host begin with.
const (
	layoutPrefix  = "oci:"
	ArchivePrefix = "docker-archive:"
)

// Parse reads an image's name; only with allowLocal may it be a file of this host. insecure reports whether a
// registry may be talked to by plain HTTP.
func Parse(image string, allowLocal bool, insecure func(host string) bool) (Reference, error) {
	if image == "" {
		return Reference{}, fault.WithRemedy(fault.Authorf("the job names no image"), "set image: in .gitlab-ci.yml")
	}
	if strings.HasPrefix(image, layoutPrefix) || strings.HasPrefix(image, ArchivePrefix) {
		if !allowLocal {
			return Reference{}, fault.WithRemedy(
				fault.Authorf("image %q lies on the runner's own disk, which only an administrator may name", image),
				"use an image of a registry, or ask the administrator to import this one")
		}
		return parseLocal(image)
	}
	ref, err := name.ParseReference(image, name.WeakValidation)
	if err == nil && insecure(ref.Context().RegistryStr()) {
		ref, err = name.ParseReference(image, name.WeakValidation, name.Insecure)
	}
	if err != nil {
		// The parser's own message would repeat a password that somebody wrote into the name.
		return Reference{}, fault.WithRemedy(fault.Authorf("%q is not the name of an image", WithoutUser(image)),
			"write [registry/]repository[:tag][@digest], in lower case, without user or scheme")
	}
	return Reference{Asked: image, Name: ref.Name(), Repo: ref.Context().Name(), Remote: ref}, nil
}

func parseLocal(image string) (Reference, error) {
	local := &Local{}
	if rest, ok := strings.CutPrefix(image, ArchivePrefix); ok {
		volume := len(filepath.VolumeName(rest))
		local.Archive = true
		local.Path, local.Tag, _ = strings.Cut(rest[volume:], ":")
		local.Path = rest[:volume] + local.Path
	} else {
		local.Path = strings.TrimPrefix(image, layoutPrefix)
		local.Path, local.Digest, _ = strings.Cut(local.Path, "@")
		if colon := strings.LastIndex(local.Path, ":"); colon > strings.LastIndexAny(local.Path, `/\`) && colon != len(filepath.VolumeName(local.Path))-1 {
			local.Path, local.Tag = local.Path[:colon], local.Path[colon+1:]
		}
	}
	if !filepath.IsAbs(local.Path) {
		return Reference{}, fault.WithRemedy(fault.Adminf("image %q has no absolute path", image),
			"write oci:/path[:tag] or docker-archive:/path.tar[:image]")
	}
	return Reference{Asked: image, Name: image, Local: local}, nil
}

// WithoutUser replaces what stands before a host as user and password.
func WithoutUser(image string) string {
	at := strings.LastIndex(image, "@")
	if at < 0 || strings.HasPrefix(image[at+1:], "sha256:") && !strings.Contains(image[:at], "@") && !strings.Contains(image, "://") {
		return image
	}
	return "***@" + image[at+1:]
}
