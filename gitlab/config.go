package gitlab

import "gitlab.com/gitlab-org/gitlab-runner/executors/custom/api"

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

// ConfigReply is config_exec's answer for a job, to be written to stdout as JSON, in the runner's own type. Of keys that
// are missing there the runner's own configuration counts. Every sandbox is one job's alone, so the builds directory is
// not shared; the host name stays the runner's own, which the job log then names.
func ConfigReply(s Settings) api.ConfigExecOutput {
	name, shared := DriverName, false
	jobEnv := map[string]string{HandleVariable: string(s.Handle)}
	return api.ConfigExecOutput{
		Driver:            &api.DriverInfo{Name: &name, Version: &s.Version},
		BuildsDir:         &s.BuildsDir,
		CacheDir:          &s.CacheDir,
		BuildsDirIsShared: &shared,
		JobEnv:            &jobEnv,
		Shell:             &s.Shell,
	}
}
