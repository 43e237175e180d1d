package registry

import (
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
)

// Credentials open a registry. They are used for the request they come with and not kept.
type Credentials struct {
	// Registry is a host with an optional port, or a URL of which only that counts.
	Registry           string
	Username, Password string
}

// String hides the password, so that no format verb can leak it.
func (c Credentials) String() string { return "credentials for " + registryHost(c.Registry) }

// GoString is String, for %#v.
func (c Credentials) GoString() string { return c.String() }

// authenticator picks the credentials of a registry; nil when there are none.
func authenticator(registry string, all []Credentials) authn.Authenticator {
	for _, c := range all {
		if c.Username+c.Password != "" && registryHost(c.Registry) == registryHost(registry) {
			return &authn.Basic{Username: c.Username, Password: c.Password}
		}
	}
	return nil
}

// registryHost reduces the forms in which registries are written to one: lower case, no scheme, no path, no
// user, no default port, and one name for Docker Hub.
func registryHost(s string) string {
	_, rest, hasScheme := strings.Cut(s, "://")
	if !hasScheme {
		rest = s
	}
	host, _, _ := strings.Cut(rest, "/")
	host = strings.ToLower(host[strings.LastIndex(host, "@")+1:])
	host = strings.TrimSuffix(host, ":443")
	switch host {
	case "docker.io", "registry-1.docker.io", "registry.hub.docker.com":
		return name.DefaultRegistry
	}
	return host
}
