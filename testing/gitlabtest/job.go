package gitlabtest

import (
	"fmt"
	"net/url"
	"path"
	"strings"
	"time"
)

// Job is a job as its author and its project define it. Zero fields have usable defaults: the smallest job
// is Job{ID: 1, Script: []string{"true"}}.
type Job struct {
	ID int64
	// Name and Stage default to "build" and "test".
	Name, Stage string
	// Token is the job token; it defaults to one made of the ID.
	Token string

	// ServerURL is GitLab's address; the Coordinator sets its own.
	ServerURL string
	// ProjectPath defaults to "group/project", with a namespace of one level. ProjectID defaults to 42.
	ProjectPath string
	ProjectID   int64
	// RepositoryURL is the repository's address without credentials. Empty: there is none, and GIT_STRATEGY
	// becomes "none".
	RepositoryURL string
	// SHA and Ref are what is built; they default to a made-up commit on "main".
	SHA, Ref string
	// Protected is git_info.protected: nil leaves the key out, as GitLab before 18.3 does.
	Protected *bool

	Image string
	// Entrypoint, ImageUser and ImagePlatform are image:entrypoint, image:docker:user and image:docker:platform.
	Entrypoint               []string
	ImageUser, ImagePlatform string
	Services                 []Service
	// Script, Release and AfterScript are the stages of the same names. Release becomes a stage step_release.
	Script, Release, AfterScript []string
	// PreGetSources and PostGetSources are hooks.
	PreGetSources, PostGetSources []string
	// Variables come last of all that GitLab sends, so they override its own, as in a real job.
	Variables    []Variable
	Artifacts    []Artifact
	Cache        []Cache
	Dependencies []Dependency
	Credentials  []Credentials
	// Inputs are job inputs: ${{ job.inputs.KEY }} in scripts. A Caller knows none.
	Inputs []Input

	// Timeout defaults to an hour; whole seconds, which the runner enforces.
	Timeout time.Duration
	// StartedAt defaults to a fixed time.
	StartedAt time.Time
	// BootVerify makes it one of GitLab's boot_verify jobs: no git_info, no token, no image.
	BootVerify bool
	// Response, when not nil, may change the job response before it is written; for malformed ones.
	Response func(json []byte) []byte
}

// Variable is a CI/CD variable, with the flags of GitLab's API.
type Variable struct {
	Key    string `json:"key"`
	Value  string `json:"value"`
	Public bool   `json:"public"`
	File   bool   `json:"file"`
	Masked bool   `json:"masked"`
	Raw    bool   `json:"raw"`
}

// Input is a job input.
type Input struct {
	Key   string     `json:"key"`
	Value InputValue `json:"value"`
}

// InputValue is a job input's value; Type is "string", "number", "boolean", "array" or "struct".
type InputValue struct {
	Type      string `json:"type"`
	Content   any    `json:"content"`
	Sensitive bool   `json:"sensitive"`
}

// Service is an entry of services:.
type Service struct {
	Name, Alias         string
	Entrypoint, Command []string
	Variables           []Variable
}

// Artifact is an entry of artifacts:. When is "on_success" (default), "on_failure" or "always".
type Artifact struct {
	Name   string
	Paths  []string
	When   string
	Format string // "zip" by default
	Type   string // "archive" by default
}

// Cache is an entry of cache:. Policy is "pull-push" (default), "pull" or "push"; When is as an Artifact's.
type Cache struct {
	Key, Policy, When string
	Paths             []string
	// FallbackKeys are tried in turn when there is no cache under Key.
	FallbackKeys []string
}

// Dependency is an earlier job whose artifacts are downloaded.
type Dependency struct {
	ID       int64
	Token    string
	Name     string
	Filename string // of its artifacts; empty: it has none
}

// Credentials are a registry's.
type Credentials struct {
	Type     string `json:"type"`
	URL      string `json:"url"`
	Username string `json:"username"`
	Password string `json:"password"`
}

// filled returns a copy with the defaults in place.
func (j Job) filled() Job {
	setDefault(&j.Name, "build")
	setDefault(&j.Stage, "test")
	setDefault(&j.Token, fmt.Sprintf("glcbt-64_job%08d", j.ID))
	setDefault(&j.ServerURL, "http://127.0.0.1:8929")
	setDefault(&j.ProjectPath, "group/project")
	setDefault(&j.SHA, "31a1dc35f3536e2705ee5c41d851f1246fb422bc")
	setDefault(&j.Ref, "main")
	if j.ProjectID == 0 {
		j.ProjectID = 42
	}
	if j.Timeout == 0 {
		j.Timeout = time.Hour
	}
	if j.StartedAt.IsZero() {
		j.StartedAt = time.Date(2026, 11, 23, 9, 25, 3, 0, time.UTC)
	}
	if j.RepositoryURL == "" {
		j.RepositoryURL = j.ServerURL + "/" + j.ProjectPath + ".git"
		j.Variables = append([]Variable{{Key: "GIT_STRATEGY", Value: "none", Public: true}}, j.Variables...)
	}
	return j
}

func setDefault(field *string, value string) {
	if *field == "" {
		*field = value
	}
}

// cloneURL is the repository's address with the job token in it.
func (j Job) cloneURL() string {
	u, err := url.Parse(j.RepositoryURL)
	if err != nil {
		return j.RepositoryURL
	}
	u.User = url.UserPassword("gitlab-ci-token", j.Token)
	return u.String()
}

func (j Job) server() *url.URL {
	u, err := url.Parse(j.ServerURL)
	if err != nil {
		return &url.URL{}
	}
	return u
}

// predefined are the variables that GitLab sends, in its order, the job's own last.
func (j Job) predefined() []Variable {
	public := func(key, value string) Variable { return Variable{Key: key, Value: value, Public: true} }
	masked := func(key, value string) Variable { return Variable{Key: key, Value: value, Masked: true} }
	server, namespace := j.server(), path.Dir(j.ProjectPath)
	project := j.ServerURL + "/" + j.ProjectPath
	pages := "https://" + namespace + ".example.io/" + path.Base(j.ProjectPath)
	variables := []Variable{
		public("CI_PIPELINE_ID", "1000"),
		public("CI_PIPELINE_URL", project+"/-/pipelines/1000"),
		public("CI_JOB_ID", fmt.Sprint(j.ID)),
		public("CI_JOB_URL", fmt.Sprintf("%s/-/jobs/%d", project, j.ID)),
		masked("CI_JOB_TOKEN", j.Token),
		public("CI_JOB_STARTED_AT", j.StartedAt.Format(time.RFC3339)),
		public("CI_REGISTRY_USER", "gitlab-ci-token"),
		masked("CI_REGISTRY_PASSWORD", j.Token),
		{Key: "CI_REPOSITORY_URL", Value: j.cloneURL()},
		public("CI_DEPENDENCY_PROXY_USER", "gitlab-ci-token"),
		masked("CI_DEPENDENCY_PROXY_PASSWORD", j.Token),
		public("CI_JOB_NAME", j.Name),
		public("CI_JOB_NAME_SLUG", j.Name),
		public("CI_JOB_STAGE", j.Stage),
		public("CI_NODE_TOTAL", "1"),
		public("CI", "true"),
		public("GITLAB_CI", "true"),
		public("CI_SERVER_URL", j.ServerURL),
		public("CI_SERVER_HOST", server.Hostname()),
		public("CI_SERVER_PORT", server.Port()),
		public("CI_SERVER_PROTOCOL", server.Scheme),
		public("CI_SERVER_NAME", "GitLab"),
		public("CI_SERVER_VERSION", "19.4.0-ee"),
		public("CI_SERVER_VERSION_MAJOR", "19"),
		public("CI_SERVER_VERSION_MINOR", "4"),
		public("CI_SERVER_VERSION_PATCH", "0"),
		public("CI_SERVER_REVISION", "deadbeef"),
		public("GITLAB_FEATURES", "audit_events,blocked_issues,board_iteration_lists,code_owners,code_review_analytics"),
		public("CI_PROJECT_ID", fmt.Sprint(j.ProjectID)),
		public("CI_PROJECT_NAME", path.Base(j.ProjectPath)),
		public("CI_PROJECT_TITLE", path.Base(j.ProjectPath)),
		public("CI_PROJECT_DESCRIPTION", ""),
		public("CI_PROJECT_PATH", j.ProjectPath),
		public("CI_PROJECT_PATH_SLUG", strings.ReplaceAll(j.ProjectPath, "/", "-")),
		public("CI_PROJECT_NAMESPACE", namespace),
		public("CI_PROJECT_NAMESPACE_ID", "7"),
		public("CI_PROJECT_NAMESPACE_SLUG", namespace),
		public("CI_PROJECT_ROOT_NAMESPACE", namespace),
		public("CI_PROJECT_URL", project),
		public("CI_PROJECT_VISIBILITY", "private"),
		public("CI_PROJECT_REPOSITORY_LANGUAGES", "go"),
		public("CI_PROJECT_CLASSIFICATION_LABEL", ""),
		public("CI_DEFAULT_BRANCH", "main"),
		public("CI_CONFIG_PATH", ".gitlab-ci.yml"),
		public("CI_PAGES_DOMAIN", "example.io"),
		public("CI_PAGES_URL", pages),
		public("CI_API_V4_URL", j.ServerURL+"/api/v4"),
		public("CI_API_GRAPHQL_URL", j.ServerURL+"/api/graphql"),
		public("CI_TEMPLATE_REGISTRY_HOST", "registry.gitlab.com"),
		public("CI_REGISTRY", "registry.example.com"),
		public("CI_REGISTRY_IMAGE", "registry.example.com/"+j.ProjectPath),
		public("CI_DEPENDENCY_PROXY_SERVER", server.Host),
		public("CI_PIPELINE_IID", "12"),
		public("CI_PIPELINE_SOURCE", "push"),
		public("CI_PIPELINE_CREATED_AT", "2026-09-01T00:00:00Z"),
		public("CI_COMMIT_SHA", j.SHA),
		public("CI_COMMIT_SHORT_SHA", j.SHA[:min(8, len(j.SHA))]),
		public("CI_COMMIT_BEFORE_SHA", strings.Repeat("0", 40)),
		public("CI_COMMIT_BRANCH", j.Ref),
		public("CI_COMMIT_REF_NAME", j.Ref),
		public("CI_COMMIT_REF_SLUG", j.Ref),
		public("CI_COMMIT_MESSAGE", "a commit"),
		public("CI_COMMIT_TITLE", "a commit"),
		public("CI_COMMIT_DESCRIPTION", ""),
		public("CI_COMMIT_REF_PROTECTED", fmt.Sprint(j.Protected != nil && *j.Protected)),
		public("CI_COMMIT_TIMESTAMP", "2026-09-01T00:00:00Z"),
		public("CI_COMMIT_AUTHOR", "A B <a@b.c>"),
		public("CI_RUNNER_ID", "1"),
		public("CI_RUNNER_DESCRIPTION", "bench"),
		public("CI_RUNNER_TAGS", `["bench"]`),
		public("GITLAB_USER_ID", "1"),
		public("GITLAB_USER_EMAIL", "a@b.c"),
		public("GITLAB_USER_LOGIN", "ab"),
		public("GITLAB_USER_NAME", "A B"),
	}
	return append(variables, j.Variables...)
}
