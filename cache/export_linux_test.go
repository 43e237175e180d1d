package cache

import (
	"net/http"
	"net/url"
)

// UseProxy gives a cache another proxy than the environment's, which is read once in a process.
func UseProxy(c *Cache, proxy func(*http.Request) (*url.URL, error)) {
	c.web.proxy = proxy
	c.web.proxied.Proxy = proxy
}
