package imagepattern

import (
	"errors"
	"net/netip"
	"regexp"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
)

// reference is what an image's name means.
type reference struct {
	// names are the spellings of host and path that surely mean the same, aliases all those that may.
	names, aliases []string
	// tag is empty when there is a digest: that alone says which image is pulled.
	tag, digest string
}

const defaultTag = "latest"

// The grammar of https://github.com/opencontainers/distribution-spec/blob/main/spec.md#pulling-manifests. The library that
// names images for pulls takes more: "a//b" and "a/../b", which many registries take for "a/b" and "b".
var (
	elementForm = regexp.MustCompile(`^[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*$`)
	tagForm     = regexp.MustCompile(`^[a-zA-Z0-9_][a-zA-Z0-9._-]*$`)
	portForm    = regexp.MustCompile(`:[0-9]*$`)
	numeric     = regexp.MustCompile(`^([0-9]+|0x[0-9a-f]*)$`)
)

var errNoReference = errors.New("it is not written as [registry/]repository[:tag][@digest]")

// parseReference reads an image's name as pulls do, with the library that they use.
func parseReference(image string) (reference, error) {
	parsed, err := name.ParseReference(image, name.WeakValidation)
	if err != nil || strings.HasPrefix(image, "oci:") || strings.HasPrefix(image, "docker-archive:") { // files, for package cache
		return reference{}, errNoReference
	}
	var r reference
	switch ref := parsed.(type) {
	case name.Tag:
		if r.tag = ref.TagStr(); !tagForm.MatchString(r.tag) {
			return reference{}, errNoReference
		}
	case name.Digest:
		r.digest = ref.DigestStr()
	default:
		return reference{}, errNoReference
	}
	repository := parsed.Context()
	host, ok := canonicalHost(repository.RegistryStr())
	if !ok {
		return reference{}, errNoReference
	}
	path := repository.RepositoryStr()
	for element := range strings.SplitSeq(path, "/") {
		if !elementForm.MatchString(element) {
			return reference{}, errNoReference
		}
	}
	written := strings.ToLower(repository.RegistryStr())
	if written == name.DefaultRegistry {
		r.names = spellings([]string{"docker.io", name.DefaultRegistry}, path)
	} else {
		r.names = []string{written + "/" + path}
	}
	r.aliases = append(spellings(hostAliases(host), path), r.names...)
	return r, nil
}

// canonicalHost returns one spelling for all that lead to one server, whatever case, dot at the end, leading zeros of a
// port, form of an IP address, or port that a scheme implies. Of two kinds of hosts nothing is sure, and they are no
// hosts here: those with letters beyond ASCII, which are mapped to others before they are looked up, and old forms of IPv4
// addresses ("127.1"). Nor is one with an empty port: so begin names of files ("docker-archive:/...").
func canonicalHost(s string) (host string, ok bool) {
	s = strings.ToLower(s)
	host = withoutPort(s)
	port := strings.TrimPrefix(s, host)
	if port == ":" || strings.ContainsFunc(host, func(r rune) bool { return r >= 0x80 }) {
		return "", false
	}
	port = strings.TrimLeft(strings.TrimPrefix(port, ":"), "0")
	if port == "443" || port == "80" {
		port = ""
	}
	host = strings.TrimRight(host, ".")
	address, err := netip.ParseAddr(strings.Trim(host, "[]"))
	switch last := host[strings.LastIndexByte(host, '.')+1:]; {
	case err == nil && address.Unmap().Is4():
		host = address.Unmap().String()
	case err == nil:
		host = "[" + address.String() + "]"
	case last == "" || numeric.MatchString(last):
		return "", false
	}
	if port != "" {
		host += ":" + port
	}
	return host, true
}

func withoutPort(host string) string {
	if strings.HasSuffix(host, "]") { // an IPv6 address
		return host
	}
	return portForm.ReplaceAllString(host, "")
}

// hostAliases are the names of a server that a pattern may use.
func hostAliases(host string) []string {
	hosts := []string{host}
	if port := strings.TrimPrefix(host, withoutPort(host)); isLoopback(host) {
		hosts = append(hosts, "localhost"+port, "127.0.0.1"+port, "[::1]"+port)
	}
	// Docker Hub's names, as in package cache.
	hub := []string{"docker.io", name.DefaultRegistry, "registry-1.docker.io", "registry.hub.docker.com"}
	if slices.Contains(hub, host) {
		hosts = hub
	}
	all := slices.Clone(hosts)
	for _, host := range hosts {
		if withoutPort(host) == host {
			all = append(all, host+":443", host+":80")
		}
	}
	return all
}

// isLoopback reports whether a host is the runner's own: by its address, by the name that always means it (RFC 6761), or
// by the address that Linux takes for it.
func isLoopback(host string) bool {
	host = withoutPort(host)
	address, err := netip.ParseAddr(strings.Trim(host, "[]"))
	if err != nil {
		return host == "localhost" || strings.HasSuffix(host, ".localhost")
	}
	return address.IsLoopback() || address.IsUnspecified()
}

// spellings are the ways to write a path at hosts that are names of one server. Docker Hub's need no host, and its official
// images no "library/". A path without its host must not be read as one at another.
func spellings(hosts []string, path string) []string {
	isHub := hosts[0] == "docker.io"
	paths := []string{path}
	if short, ok := strings.CutPrefix(path, "library/"); isHub && ok && !strings.Contains(short, "/") {
		paths = append(paths, short)
	} else if isHub && !strings.Contains(path, "/") {
		paths = append(paths, "library/"+path)
	}
	var all []string
	for _, path := range paths {
		for _, host := range hosts {
			all = append(all, host+"/"+path)
		}
		if read, err := name.NewRepository(path); isHub && err == nil && read.RegistryStr() == name.DefaultRegistry {
			all = append(all, path)
		}
	}
	return all
}
