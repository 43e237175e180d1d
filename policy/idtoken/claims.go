package idtoken

import (
	"bytes"
	"encoding/json"
	"errors"
	"strconv"

	"github.com/airlock-ci/airlock/gitlab"
	"github.com/airlock-ci/airlock/policy"
)

// claims are those that GitLab puts into id tokens (docs.gitlab.com, "OpenID Connect (OIDC) Authentication Using ID
// Tokens"). It writes most ids and truths as strings.
type claims struct {
	JobID       id `json:"job_id"`
	ProjectID   id `json:"project_id"`
	NamespaceID id `json:"namespace_id"`
	UserID      id `json:"user_id"`
	PipelineID  id `json:"pipeline_id"`
	RunnerID    id `json:"runner_id"`

	ProjectPath       *string `json:"project_path"`
	ProjectVisibility *string `json:"project_visibility"`
	NamespacePath     *string `json:"namespace_path"`
	UserLogin         *string `json:"user_login"`
	UserAccessLevel   *string `json:"user_access_level"`
	PipelineSource    *string `json:"pipeline_source"`
	Ref               *string `json:"ref"`
	RefType           *string `json:"ref_type"`
	SHA               *string `json:"sha"`
	Environment       *string `json:"environment"`
	RunnerEnvironment *string `json:"runner_environment"`
	CIConfigRefURI    *string `json:"ci_config_ref_uri"`

	RefProtected         truth `json:"ref_protected"`
	EnvironmentProtected truth `json:"environment_protected"`
}

// ParseClaims returns what claims in JSON say, without a token around them: for tests of policies, where nothing is
// verified.
func ParseClaims(data []byte) (*policy.Identity, error) {
	var c claims
	if err := json.Unmarshal(data, &c); err != nil {
		return nil, errors.New("the claims are not those of GitLab")
	}
	return c.identity(), nil
}

// belongTo reports whether the token was made for this job. What the job response does not say cannot be compared, and
// then the token is not believed: a job could carry another's.
func (c *claims) belongTo(job *gitlab.JobResponse) error {
	switch {
	case c.JobID.value == nil || *c.JobID.value != job.ID:
		return errors.New("it was made for another job")
	case c.ProjectID.value == nil || job.JobInfo.ProjectID == nil || *c.ProjectID.value != *job.JobInfo.ProjectID:
		return errors.New("it was made for a job of another project, or the job's project is unknown")
	case c.Ref == nil || job.GitInfo.Ref == nil || *c.Ref != *job.GitInfo.Ref:
		return errors.New("it was made for another ref, as that of a merge request is, or the job's ref is unknown")
	}
	return nil
}

func (c *claims) identity() *policy.Identity {
	return &policy.Identity{
		JobID: c.JobID.value, ProjectID: c.ProjectID.value, NamespaceID: c.NamespaceID.value, UserID: c.UserID.value,
		PipelineID: c.PipelineID.value, RunnerID: c.RunnerID.value,
		ProjectPath: c.ProjectPath, NamespacePath: c.NamespacePath, ProjectVisibility: c.ProjectVisibility,
		UserLogin: c.UserLogin, UserAccessLevel: c.UserAccessLevel, PipelineSource: c.PipelineSource,
		Ref: c.Ref, RefType: c.RefType, SHA: c.SHA, Environment: c.Environment, RunnerEnvironment: c.RunnerEnvironment,
		CIConfigRefURI: c.CIConfigRefURI, RefProtected: c.RefProtected.value, EnvironmentProtected: c.EnvironmentProtected.value,
	}
}

// id is a number, or a string with one; anything else is unknown.
type id struct{ value *int64 }

// UnmarshalJSON never fails.
func (i *id) UnmarshalJSON(data []byte) error {
	if n, err := strconv.ParseInt(string(bytes.Trim(data, `"`)), 10, 64); err == nil {
		i.value = &n
	}
	return nil
}

// truth is true or false, or a string with one; anything else is unknown.
type truth struct{ value *bool }

// UnmarshalJSON never fails.
func (t *truth) UnmarshalJSON(data []byte) error {
	var value bool
	if json.Unmarshal(bytes.Trim(data, `"`), &value) == nil && !bytes.Equal(data, []byte("null")) {
		t.value = &value
	}
	return nil
}
