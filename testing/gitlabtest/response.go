package gitlabtest

import (
	"bytes"
	"encoding/json"
	"fmt"
)

// The types below are GitLab's answer to a request for a job. Runner 19.4 writes it to JOB_RESPONSE_FILE with the same
// keys, also the empty ones; only inputs are a list in the answer, and come to nothing in the file.

type jobResponse struct {
	ID            int64          `json:"id"`
	Token         string         `json:"token"`
	AllowGitFetch bool           `json:"allow_git_fetch"`
	JobInfo       jobInfo        `json:"job_info"`
	GitInfo       *gitInfo       `json:"git_info,omitempty"`
	RunnerInfo    runnerInfo     `json:"runner_info"`
	Inputs        any            `json:"inputs"`
	Variables     []Variable     `json:"variables"`
	Steps         []step         `json:"steps"`
	Image         *image         `json:"image,omitempty"`
	Services      []image        `json:"services"`
	Artifacts     []artifact     `json:"artifacts"`
	Cache         []cache        `json:"cache"`
	Credentials   []Credentials  `json:"credentials"`
	Dependencies  []dependency   `json:"dependencies"`
	Features      features       `json:"features"`
	Hooks         []hook         `json:"hooks"`
	PolicyOptions map[string]any `json:"policy_options"`
	Suspend       struct{}       `json:"suspend_options"`
}

type jobInfo struct {
	Name            string  `json:"name"`
	Stage           string  `json:"stage"`
	PipelineID      int64   `json:"pipeline_id"`
	ProjectID       int64   `json:"project_id"`
	ProjectName     string  `json:"project_name"`
	ProjectFullPath string  `json:"project_full_path"`
	NamespaceID     int64   `json:"namespace_id"`
	RootNamespaceID int64   `json:"root_namespace_id"`
	OrganizationID  int64   `json:"organization_id"`
	InstanceID      string  `json:"instance_id"`
	InstanceUUID    string  `json:"instance_uuid"`
	UserID          int64   `json:"user_id"`
	TimeInQueue     float64 `json:"time_in_queue_seconds"`
	JobsRunning     string  `json:"project_jobs_running_on_instance_runners_count"`
	QueueSize       int64   `json:"queue_size"`
	QueueDepth      int64   `json:"queue_depth"`
}

type gitInfo struct {
	RepoURL      string   `json:"repo_url"`
	ObjectFormat string   `json:"repo_object_format"`
	Ref          string   `json:"ref"`
	SHA          string   `json:"sha"`
	BeforeSHA    string   `json:"before_sha"`
	RefType      string   `json:"ref_type"`
	Refspecs     []string `json:"refspecs"`
	Depth        int      `json:"depth"`
	Protected    *bool    `json:"protected,omitempty"`
}

type runnerInfo struct {
	UUID    string `json:"uuid"`
	Timeout int64  `json:"timeout"`
}

type step struct {
	Name         string   `json:"name"`
	Script       []string `json:"script"`
	Timeout      int64    `json:"timeout"`
	When         string   `json:"when"`
	AllowFailure bool     `json:"allow_failure"`
}

type image struct {
	Name         string         `json:"name"`
	Alias        string         `json:"alias,omitempty"`
	Entrypoint   []string       `json:"entrypoint,omitempty"`
	Command      []string       `json:"command,omitempty"`
	Variables    []Variable     `json:"variables,omitempty"`
	ExecutorOpts map[string]any `json:"executor_opts"`
}

type artifact struct {
	Name      string   `json:"name"`
	Untracked bool     `json:"untracked"`
	Paths     []string `json:"paths"`
	Exclude   []string `json:"exclude"`
	When      string   `json:"when"`
	Type      string   `json:"artifact_type"`
	Format    string   `json:"artifact_format"`
	ExpireIn  string   `json:"expire_in"`
}

type cache struct {
	Key          string   `json:"key"`
	Untracked    bool     `json:"untracked"`
	Policy       string   `json:"policy"`
	Paths        []string `json:"paths"`
	When         string   `json:"when"`
	FallbackKeys []string `json:"fallback_keys"`
}

type dependency struct {
	ID            int64         `json:"id"`
	Token         string        `json:"token"`
	Name          string        `json:"name"`
	ArtifactsFile artifactsFile `json:"artifacts_file"`
}

type artifactsFile struct {
	Filename string `json:"filename"`
	Size     int64  `json:"size"`
}

type features struct {
	TraceSections  bool     `json:"trace_sections"`
	TokenPrefixes  []string `json:"token_mask_prefixes"`
	FailureReasons []string `json:"failure_reasons"`
	Tracing        *string  `json:"tracing"`
}

type hook struct {
	Name   string   `json:"name"`
	Script []string `json:"script"`
}

// depth is the depth of a clone, as the job's GIT_DEPTH says by default.
const depth = 20

// Response returns a job's response as GitLab Runner writes it to JOB_RESPONSE_FILE.
func Response(job Job) ([]byte, error) {
	if job.ID <= 0 {
		return nil, fmt.Errorf("gitlabtest: the job has no id")
	}
	return job.filled().response(), nil
}

// response returns what the runner writes of a filled job's response to JOB_RESPONSE_FILE, as one line of JSON.
func (j Job) response() []byte {
	r := j.newResponse()
	r.Inputs = struct{}{}
	return j.encode(r)
}

// answer returns GitLab's answer to a request for a job, which is this filled one.
func (j Job) answer() []byte {
	r := j.newResponse()
	r.Inputs = append([]Input{}, j.Inputs...)
	return j.encode(r)
}

func (j Job) newResponse() jobResponse {
	r := jobResponse{
		ID: j.ID, Token: j.Token, AllowGitFetch: true,
		JobInfo: j.jobInfo(), GitInfo: j.gitInfo(),
		RunnerInfo:    runnerInfo{UUID: "runner-uuid", Timeout: int64(j.Timeout.Seconds())},
		Variables:     j.predefined(),
		Steps:         j.steps(),
		Image:         newImage(Service{Name: j.Image, Entrypoint: j.Entrypoint}),
		Services:      []image{},
		Credentials:   append([]Credentials{}, j.Credentials...),
		Dependencies:  []dependency{},
		Artifacts:     []artifact{},
		Cache:         []cache{},
		Hooks:         j.hooks(),
		PolicyOptions: map[string]any{"execution_policy_job": false, "policy_name": ""},
		Features: features{TraceSections: true, TokenPrefixes: []string{"glpat-"}, FailureReasons: []string{
			"unknown_failure", "script_failure", "api_failure", "stuck_or_timeout_failure", "runner_system_failure", "job_execution_timeout",
		}},
	}
	r.Image.ExecutorOpts["docker"] = map[string]any{"platform": j.ImagePlatform, "user": j.ImageUser}
	for _, s := range j.Services {
		r.Services = append(r.Services, *newImage(s))
	}
	for _, a := range j.Artifacts {
		r.Artifacts = append(r.Artifacts, artifact{
			Name: a.Name, Paths: a.Paths, When: a.When,
			Type: or(a.Type, "archive"), Format: or(a.Format, "zip"),
		})
	}
	for _, c := range j.Cache {
		r.Cache = append(r.Cache, cache{
			Key: c.Key, Policy: or(c.Policy, "pull-push"), Paths: c.Paths, When: or(c.When, "on_success"), FallbackKeys: c.FallbackKeys,
		})
	}
	for _, d := range j.Dependencies {
		file := artifactsFile{Filename: d.Filename, Size: int64(len(d.Filename))}
		r.Dependencies = append(r.Dependencies, dependency{ID: d.ID, Token: d.Token, Name: d.Name, ArtifactsFile: file})
	}
	if j.BootVerify {
		r.Token, r.GitInfo, r.Image = "", nil, nil
	}
	return r
}

func (j Job) encode(r jobResponse) []byte {
	var buf bytes.Buffer
	if err := json.NewEncoder(&buf).Encode(r); err != nil {
		panic(fmt.Sprintf("gitlabtest: a job response cannot be encoded: %v", err)) // no field of it can fail
	}
	if j.Response != nil {
		return j.Response(buf.Bytes())
	}
	return buf.Bytes()
}

func (j Job) jobInfo() jobInfo {
	variables := variables(j.predefined())
	return jobInfo{
		Name: j.Name, Stage: j.Stage, PipelineID: 1000,
		ProjectID: j.ProjectID, ProjectName: variables.get("CI_PROJECT_NAME"), ProjectFullPath: j.ProjectPath,
		NamespaceID: 7, RootNamespaceID: 7, OrganizationID: 1, InstanceID: "inst", InstanceUUID: "uuid",
		UserID: 1, TimeInQueue: 0.5, JobsRunning: "0", QueueSize: 1, QueueDepth: 1,
	}
}

func (j Job) gitInfo() *gitInfo {
	return &gitInfo{
		RepoURL: j.cloneURL(), ObjectFormat: "sha1", Ref: j.Ref, SHA: j.SHA,
		BeforeSHA: "0000000000000000000000000000000000000000", RefType: "branch",
		Refspecs: j.refspecs(), Depth: depth, Protected: j.Protected,
	}
}

func (j Job) refspecs() []string {
	return []string{
		fmt.Sprintf("+%s:refs/pipelines/1000", j.SHA),
		fmt.Sprintf("+refs/heads/%s:refs/remotes/origin/%[1]s", j.Ref),
	}
}

func (j Job) steps() []step {
	timeout := int64(j.Timeout.Seconds())
	steps := []step{{Name: "script", Script: j.Script, Timeout: timeout, When: "on_success"}}
	if j.Release != nil {
		steps = append(steps, step{Name: "release", Script: j.Release, Timeout: timeout, When: "on_success"})
	}
	if j.AfterScript != nil {
		steps = append(steps, step{Name: "after_script", Script: j.AfterScript, Timeout: timeout, When: "always", AllowFailure: true})
	}
	return steps
}

func (j Job) hooks() []hook {
	hooks := []hook{}
	if j.PreGetSources != nil {
		hooks = append(hooks, hook{Name: "pre_get_sources_script", Script: j.PreGetSources})
	}
	if j.PostGetSources != nil {
		hooks = append(hooks, hook{Name: "post_get_sources_script", Script: j.PostGetSources})
	}
	return hooks
}

func newImage(s Service) *image {
	return &image{
		Name: s.Name, Alias: s.Alias, Entrypoint: s.Entrypoint, Command: s.Command, Variables: s.Variables,
		ExecutorOpts: map[string]any{
			"docker":     map[string]any{"platform": "", "user": ""},
			"kubernetes": map[string]any{"user": ""},
		},
	}
}

func or(value, fallback string) string {
	if value == "" {
		return fallback
	}
	return value
}
