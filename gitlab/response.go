// Package gitlab is GitLab Runner's custom-executor protocol as pure functions: the job response file, the
// stages and whose code they are, the environment a runner sets, config's reply. It does no I/O, keeps no
// state and imports nothing heavy, because the driver uses it at each of its starts.
package gitlab

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"path"
	"slices"
	"strings"
)

// MaxJobResponse is the largest job response accepted, in bytes. GitLab's own limit on a job's
// configuration is far below; the bound protects the executor from a file that is none.
const MaxJobResponse = 16 << 20

// JobResponse is what GitLab answered to the runner's request for a job (JOB_RESPONSE_FILE, runner >= 14.1),
// as far as Airlock reads it. A pointer is nil when the key was absent or null: absent means unknown, and
// unknown is never trusted.
type JobResponse struct {
	ID      int64   `json:"id"`
	JobInfo JobInfo `json:"job_info"`
	GitInfo GitInfo `json:"git_info"`
	// Image and Services are claimed: the job's author writes them.
	Image       Image         `json:"image"`
	Services    []Image       `json:"services"`
	Credentials []Credentials `json:"credentials"`
	RunnerInfo  RunnerInfo    `json:"runner_info"`
	// Variables are claimed, all of them: those of .gitlab-ci.yml override GitLab's own, duplicates are kept.
	Variables     []Variable    `json:"variables"`
	PolicyOptions PolicyOptions `json:"policy_options"`
	// Run is what the job has instead of a script: its steps, as JSON or as a string of it. Claimed.
	Run json.RawMessage `json:"run"`
}

// ServiceNames returns the images of the job's services, in their order.
func (j *JobResponse) ServiceNames() []string {
	names := make([]string, 0, len(j.Services))
	for _, service := range j.Services {
		names = append(names, service.Name)
	}
	return names
}

// HasSteps reports whether the job has run: instead of script:, steps that only step-runner can run.
func (j *JobResponse) HasSteps() bool {
	run := strings.Join(strings.Fields(string(j.Run)), "")
	return !slices.Contains([]string{"", "null", `""`, "[]", "{}", `"[]"`, `"null"`, "false"}, run)
}

// JobInfo says which project and pipeline the job belongs to. Name and Stage are claimed, the rest attested.
type JobInfo struct {
	Name            string  `json:"name"`
	Stage           string  `json:"stage"`
	ProjectID       *int64  `json:"project_id"`
	ProjectFullPath *string `json:"project_full_path"`
	PipelineID      *int64  `json:"pipeline_id"`
	UserID          *int64  `json:"user_id"`

	NamespaceID     Lenient[int64]  `json:"namespace_id"`
	RootNamespaceID Lenient[int64]  `json:"root_namespace_id"`
	OrganizationID  Lenient[int64]  `json:"organization_id"`
	InstanceID      Lenient[string] `json:"instance_id"`
}

// GitInfo says what is built. All of it is attested by GitLab. RepoURL contains the job token.
type GitInfo struct {
	RepoURL   string            `json:"repo_url"`
	Ref       *string           `json:"ref"`
	RefType   *string           `json:"ref_type"`
	SHA       *string           `json:"sha"`
	Refspecs  Lenient[[]string] `json:"refspecs"`
	Protected *bool             `json:"protected"`
}

// PolicyOptions says whether a security policy of GitLab's, not .gitlab-ci.yml, made the job. Attested.
type PolicyOptions struct {
	ExecutionPolicyJob Lenient[bool]   `json:"execution_policy_job"`
	PolicyName         Lenient[string] `json:"policy_name"`
}

// Variable is one of the job's variables.
type Variable struct {
	Key   string `json:"key"`
	Value Secret `json:"value"`
}

// Secret is a string that no format verb, and no encoder, writes out.
type Secret string

// String hides the secret, as GoString and MarshalText do.
func (Secret) String() string { return "[hidden]" }

// GoString is String, for %#v.
func (Secret) GoString() string { return "[hidden]" }

// MarshalText hides the secret in JSON.
func (Secret) MarshalText() ([]byte, error) { return []byte("[hidden]"), nil }

// Lenient is a value that is nil, unknown, when the key was absent, null or of another type than expected: no
// release of GitLab that changes such a key shall make jobs fail, and what is unknown is not trusted.
type Lenient[T any] struct{ Value *T }

// UnmarshalJSON never fails.
func (l *Lenient[T]) UnmarshalJSON(data []byte) error {
	var value *T
	if json.Unmarshal(data, &value) == nil {
		l.Value = value
	}
	return nil
}

// RunnerInfo carries the job's time-out in seconds.
type RunnerInfo struct {
	Timeout *int64 `json:"timeout"`
}

// Image is an image: or services: entry, expanded.
type Image struct {
	Name         string   `json:"name"`
	Alias        string   `json:"alias"`
	Entrypoint   []string `json:"entrypoint"`
	PullPolicies []string `json:"pull_policy"`
	// Options are for single executors.
	Options Lenient[ImageOptions] `json:"executor_opts"`
}

// ImageOptions are an image's options for the Docker executor.
type ImageOptions struct {
	Docker struct {
		User string `json:"user"`
		// Platform is "os/arch[/variant]", or less, in the forms that Docker takes.
		Platform string `json:"platform"`
	} `json:"docker"`
}

// DockerUser is image:docker:user, empty when there is none.
func (i Image) DockerUser() string {
	if i.Options.Value == nil {
		return ""
	}
	return i.Options.Value.Docker.User
}

// HasEntrypoint reports whether image:entrypoint names something to run; [""] names nothing.
func (i Image) HasEntrypoint() bool { return strings.Join(i.Entrypoint, "") != "" }

// Credentials are a registry's.
type Credentials struct {
	Type     string `json:"type"`
	URL      string `json:"url"`
	Username string `json:"username"`
	Password string `json:"password"`
}

// String hides the password, so that no format verb can leak it.
func (c Credentials) String() string { return c.Type + " credentials for " + c.URL }

// GoString is String, for %#v.
func (c Credentials) GoString() string { return c.String() }

// Platform is the platform that the job demands of an image; empty if it does not.
func (i Image) Platform() string {
	if i.Options.Value == nil {
		return ""
	}
	return i.Options.Value.Docker.Platform
}

// ParseJobResponse parses a job response file. It takes keys literally, as GitLab Runner writes them, and
// refuses a document with doubled keys, more than one value, or anything but UTF-8. Errors never quote it.
func ParseJobResponse(data []byte) (*JobResponse, error) {
	if len(data) > MaxJobResponse {
		return nil, fmt.Errorf("the job response is larger than %d bytes", MaxJobResponse)
	}
	document, err := normalise(data)
	if err != nil {
		return nil, fmt.Errorf("the job response is not valid: %s", describeJSONError(err))
	}
	var job JobResponse
	if err := json.Unmarshal(document, &job); err != nil {
		return nil, fmt.Errorf("the job response is not valid: %s", describeJSONError(err))
	}
	if job.ID <= 0 {
		return nil, fmt.Errorf("the job response has no positive job id")
	}
	return &job, nil
}

// describeJSONError says where a document is wrong without quoting it: it may hold secrets.
func describeJSONError(err error) string {
	var syntax *json.SyntaxError
	var mismatch *json.UnmarshalTypeError
	switch {
	case errors.As(err, &syntax):
		return fmt.Sprintf("JSON syntax error at byte %d", syntax.Offset)
	case errors.As(err, &mismatch):
		return fmt.Sprintf("the value of %q is of the wrong type", mismatch.Field)
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "it ends too early"
	default:
		return err.Error() // normalise's own, which quote nothing
	}
}

// ProjectDir returns the directory below buildsDir that the runner clones into: the path of the repository's
// URL. It is empty when the job has no repository or its URL would lead elsewhere.
func (j *JobResponse) ProjectDir(buildsDir string) string {
	u, err := url.Parse(j.GitInfo.RepoURL)
	if err != nil || j.GitInfo.RepoURL == "" {
		return ""
	}
	p := path.Join(buildsDir, path.Clean("/"+strings.TrimSuffix(u.Path, ".git")))
	if p == buildsDir {
		return ""
	}
	return p
}
