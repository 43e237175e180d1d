package isolation

// BuildsDir and CacheDir are the job's builds_dir and cache_dir.
const (
	BuildsDir = `C:\builds`
	CacheDir  = `C:\cache`
)
