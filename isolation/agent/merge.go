package agent

import (
	"strings"

	"github.com/airlock-ci/airlock/internal/fault"
	"github.com/airlock-ci/airlock/isolation"
)

// defaultPath is the PATH of images that set none, Docker's.
const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// merge joins a ProcessSpec with the configuration of its root:
//
//   - the environment is, later wins: the default PATH, the root's Env, for helper stages HOME, the spec's Env;
//   - the user is the spec's, else the image's (the agent resolved it at setup), in the helper root, too, so that
//     what helper stages leave in the builds directory belongs to the job;
//   - the directory is the spec's, or without one the root's WorkingDir; BuildsDir when that does not exist, and
//     "/" as the last resort.
//
// Without a helper root, a helper stage is a stage of the image but for its capabilities.
func merge(id uint64, spec isolation.ProcessSpec, setup Setup) (*startRequest, error) {
	helper := spec.Helper && setup.Helper != nil
	root := setup.Image
	if helper {
		root = *setup.Helper
	}

	env := []string{"PATH=" + defaultPath}
	if spec.TTY {
		env = append(env, "TERM=xterm")
	}
	env = append(env, root.Env...)
	if helper {
		env = append(env, "HOME="+isolation.HomeDir)
	}
	env, err := mergeEnv(append(env, spec.Env...))
	if err != nil {
		return nil, err
	}
	for _, arg := range spec.Args {
		if strings.ContainsRune(arg, 0) {
			return nil, fault.Authorf("the argument %q contains a NUL byte", arg)
		}
	}
	req := &startRequest{
		ID: id, Helper: helper, Runners: spec.Helper, Script: -1, Args: spec.Args, Env: env,
		Dirs: workingDirs(spec.Dir, root.WorkingDir), User: spec.User,
		Interactive: spec.Interactive, TTY: spec.TTY, Rows: spec.Rows, Columns: spec.Columns,
		Stdin: spec.Stdin != nil && spec.Script == nil,
	}
	if spec.Script != nil {
		if len(spec.Script) > MaxScript {
			return nil, fault.Authorf("the script has %d bytes, more than the %d that are allowed", len(spec.Script), MaxScript)
		}
		req.Script, req.Args = int64(len(spec.Script)), nil
	}
	return req, nil
}

// pathOf returns the PATH of a root's environment, or the default one.
func pathOf(env []string) string {
	path := defaultPath
	for _, pair := range env {
		if value, ok := strings.CutPrefix(pair, "PATH="); ok {
			path = value
		}
	}
	return path
}

// mergeEnv removes all but the last value of each name; the order is that of the first ones.
func mergeEnv(env []string) ([]string, error) {
	merged := make([]string, 0, len(env))
	index := make(map[string]int, len(env))
	for _, pair := range env {
		name, _, ok := strings.Cut(pair, "=")
		if !ok || name == "" || strings.ContainsRune(pair, 0) {
			return nil, fault.Authorf("the environment variable %q is not of the form NAME=value", name)
		}
		if at, seen := index[name]; seen {
			merged[at] = pair
			continue
		}
		index[name] = len(merged)
		merged = append(merged, pair)
	}
	return merged, nil
}

func workingDirs(spec, image string) []string {
	first := spec
	if first == "" {
		first = image
	}
	if first == "" {
		return []string{isolation.BuildsDir, "/"}
	}
	return []string{first, isolation.BuildsDir, "/"}
}
