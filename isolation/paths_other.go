//go:build !windows

package isolation

// BuildsDir and CacheDir are the job's builds_dir and cache_dir, shared by both roots.
const (
	BuildsDir = "/builds"
	CacheDir  = "/cache"
)
