package gitlab

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"strconv"
	"strings"
)

// runnersStages are the stages whose scripts GitLab Runner writes itself; everything else is the author's.
// Source: the stages of runner 19.4's common.BuildStage and what its shell writer puts in them.
var runnersStages = map[string]bool{
	"prepare_script":              true,
	"get_sources":                 true,
	"clear_worktree":              true,
	"restore_cache":               true,
	"download_artifacts":          true,
	"archive_cache":               true,
	"archive_cache_on_failure":    true,
	"upload_artifacts_on_success": true,
	"upload_artifacts_on_failure": true,
	"cleanup_file_variables":      true,
}

// IsRunnersStage reports whether a stage's script is the runner's own and so runs in the helper root. Stages
// that are not known are the author's: the doubtful ones never meet the helper's tools.
func IsRunnersStage(stage string) bool { return runnersStages[stage] }

// Handle names one prepare attempt of one job: the job's id and a nonce. It is made by config_exec and comes
// back through job_env, the only channel that a job's variables cannot overwrite. A caller that knows it may
// run stages in the sandbox, so it is treated as a secret.
type Handle string

// HandleVariable is the job_env key that carries the handle.
const HandleVariable = "AIRLOCK_JOB_HANDLE"

// handleNonce is the length of a handle's nonce, in hex digits.
const handleNonce = 32

// NewHandle returns a fresh handle for a job id.
func NewHandle(jobID int64) Handle {
	var nonce [handleNonce / 2]byte
	_, _ = rand.Read(nonce[:]) // never fails (crypto/rand)
	return Handle(strconv.FormatInt(jobID, 10) + "-" + hex.EncodeToString(nonce[:]))
}

// ParseHandle checks a handle's form.
func ParseHandle(s string) (Handle, error) {
	id, nonce, _ := strings.Cut(s, "-")
	if id == "" || len(id) > 20 || !consistsOf(id, "0123456789") ||
		len(nonce) != handleNonce || !consistsOf(nonce, "0123456789abcdef") {
		return "", errors.New("not a job handle: want <job id>-<32 hex digits>")
	}
	return Handle(s), nil
}

func consistsOf(s, characters string) bool { return strings.Trim(s, characters) == "" }

// JobID returns the job id that the handle was made for.
func (h Handle) JobID() int64 {
	id, _, _ := strings.Cut(string(h), "-")
	n, _ := strconv.ParseInt(id, 10, 64)
	return n
}
