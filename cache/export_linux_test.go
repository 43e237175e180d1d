package cache

import (
	"net/http"
	"net/url"

	"github.com/airlock-ci/airlock/cache/registry"
)

// UseProxy gives a cache another proxy than the environment's, which is read once in a process.
func UseProxy(c *Cache, proxy func(*http.Request) (*url.URL, error)) {
	c.network = registry.NewNetwork(c.opts.InsecureRegistries, c.opts.StallTimeout, proxy)
}
