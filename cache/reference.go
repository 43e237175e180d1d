package cache

import (
	"path/filepath"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"

	"github.com/airlock-ci/airlock/internal/fault"
)

// reference is what an image's name says.
type reference struct {
	asked string // as the request wrote it, fit for messages
	name  string // one spelling for all that mean the same: the key of the name's record
	repo  string // the repository at its registry; empty for local forms

	remote name.Reference // of a registry, or nil
	local  *localReference
}

// localReference is "oci:/path[:tag][@digest]" or "docker-archive:/path[:image]".
type localReference struct {
	archive     bool
	path        string
	tag, digest string
}

const (
	layoutPrefix  = "oci:"
	archivePrefix = "docker-archive:"
)

func (c *Cache) parseReference(image string, allowLocal bool) (reference, error) {
	if image == "" {
		return reference{}, fault.WithRemedy(fault.Authorf("the job names no image"), "set image: in .gitlab-ci.yml")
	}
	if strings.HasPrefix(image, layoutPrefix) || strings.HasPrefix(image, archivePrefix) {
		if !allowLocal {
			return reference{}, fault.WithRemedy(
				fault.Authorf("image %q lies on the runner's own disk, which only an administrator may name", image),
				"use an image of a registry, or ask the administrator to import this one")
		}
		return parseLocal(image)
	}
	ref, err := name.ParseReference(image, name.WeakValidation)
	if err == nil && c.web.lists(ref.Context().RegistryStr()) {
		ref, err = name.ParseReference(image, name.WeakValidation, name.Insecure)
	}
	if err != nil {
		// The parser's own message would repeat a password that somebody wrote into the name.
		return reference{}, fault.WithRemedy(fault.Authorf("%q is not the name of an image", withoutUser(image)),
			"write [registry/]repository[:tag][@digest], in lower case, without user or scheme")
	}
	return reference{asked: image, name: ref.Name(), repo: ref.Context().Name(), remote: ref}, nil
}

func parseLocal(image string) (reference, error) {
	local := &localReference{}
	if rest, ok := strings.CutPrefix(image, archivePrefix); ok {
		volume := len(filepath.VolumeName(rest))
		local.archive = true
		local.path, local.tag, _ = strings.Cut(rest[volume:], ":")
		local.path = rest[:volume] + local.path
	} else {
		local.path = strings.TrimPrefix(image, layoutPrefix)
		local.path, local.digest, _ = strings.Cut(local.path, "@")
		if colon := strings.LastIndex(local.path, ":"); colon > strings.LastIndexAny(local.path, `/\`) && colon != len(filepath.VolumeName(local.path))-1 {
			local.path, local.tag = local.path[:colon], local.path[colon+1:]
		}
	}
	if !filepath.IsAbs(local.path) {
		return reference{}, fault.WithRemedy(fault.Adminf("image %q has no absolute path", image),
			"write oci:/path[:tag] or docker-archive:/path.tar[:image]")
	}
	return reference{asked: image, name: image, local: local}, nil
}

// withoutUser replaces what stands before a host as user and password.
func withoutUser(image string) string {
	at := strings.LastIndex(image, "@")
	if at < 0 || strings.HasPrefix(image[at+1:], "sha256:") && !strings.Contains(image[:at], "@") && !strings.Contains(image, "://") {
		return image
	}
	return "***@" + image[at+1:]
}
