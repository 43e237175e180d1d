package gitlab

// DriverName is the name that the job log shows: "Using Custom executor with driver airlock ...".
const DriverName = "airlock"

// Settings is what config_exec tells the runner about a job's sandbox.
type Settings struct {
	// Version is the driver's, for the job log.
	Version string
	// BuildsDir and CacheDir are absolute paths in the sandbox.
	BuildsDir, CacheDir string
	// Shell is the kind of scripts that the runner writes: "bash" or "pwsh".
	Shell string
	// Handle comes back in every later call's environment.
	Handle Handle
}

// Reply is config_exec's answer, as the runner reads it: ConfigExecOutput in executors/custom/api/config.go of
// GitLab Runner 19.4, whose module cannot be required (parts of its module graph are not to be had). Every key
// may be missing; then the runner's own configuration counts, and it fails when that names no builds_dir or
// cache_dir.
type Reply struct {
	Driver            *DriverInfo        `json:"driver,omitempty"`
	Hostname          *string            `json:"hostname,omitempty"`
	BuildsDir         *string            `json:"builds_dir,omitempty"`
	CacheDir          *string            `json:"cache_dir,omitempty"`
	BuildsDirIsShared *bool              `json:"builds_dir_is_shared,omitempty"`
	JobEnv            *map[string]string `json:"job_env,omitempty"`
	Shell             *string            `json:"shell,omitempty"`
}

// DriverInfo names a driver in the job log.
type DriverInfo struct {
	Name    *string `json:"name,omitempty"`
	Version *string `json:"version,omitempty"`
}

// ConfigReply is the reply for a job, to be written to stdout as JSON. Every sandbox is one job's alone, so the
// builds directory is not shared; the host name stays the runner's own, which the job log then names.
func ConfigReply(s Settings) Reply {
	name, shared := DriverName, false
	jobEnv := map[string]string{HandleVariable: string(s.Handle)}
	return Reply{
		Driver:            &DriverInfo{Name: &name, Version: &s.Version},
		BuildsDir:         &s.BuildsDir,
		CacheDir:          &s.CacheDir,
		BuildsDirIsShared: &shared,
		JobEnv:            &jobEnv,
		Shell:             &s.Shell,
	}
}
