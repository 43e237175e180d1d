package policy

import (
	"net/url"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/airlock-ci/airlock/gitlab"
	"github.com/airlock-ci/airlock/isolation"
)

// Facts is what is known about a job, by who vouches for it. Its parts stay apart; FactTable gives each statement
// a name and a provenance.
type Facts struct {
	// Job is the parsed job response: its attested part and its claimed part are told apart by its fields.
	Job *gitlab.JobResponse
	// RunnerClass is the administrator's --runner-class argument; empty when there was none.
	RunnerClass string
	// Identity holds the claims of the job's id token once it was verified; nil else.
	Identity *Identity
	// IdentityProblem says, for the job log, why an id token that the job carried was not believed. It never
	// quotes the token.
	IdentityProblem string
	// Administrator says that this is no job but `airlock run`: what is asked for is attested then.
	Administrator bool
	// Requested is the level that was asked for, or zero.
	Requested isolation.Level
	// Network is the network that was asked for, or empty.
	Network string
}

// Identity is what a verified id token of GitLab's says. A nil field is unknown, as in gitlab.JobResponse.
type Identity struct {
	JobID, ProjectID, NamespaceID, UserID, PipelineID, RunnerID *int64

	ProjectPath, NamespacePath, ProjectVisibility *string
	UserLogin, UserAccessLevel                    *string
	PipelineSource, Ref, RefType, SHA             *string
	Environment, RunnerEnvironment                *string
	CIConfigRefURI                                *string

	RefProtected, EnvironmentProtected *bool
}

// Provenance says who vouches for a fact; the zero value is nobody.
type Provenance string

// The provenances. Only Attested facts may raise trust, and of those only the ones that have Grounds.
const (
	// Attested facts come from GitLab or from the administrator; no job's author can forge them.
	Attested Provenance = "attested"
	// Claimed facts are what a job's author writes, or may overwrite.
	Claimed Provenance = "claimed"
)

// Grounds says what a rule rests on that demands a fact; the zero value is nothing.
type Grounds int

// The grounds on which a rule may give a job more than the default.
const (
	// NoGrounds: the author of any job can bring about what the fact says, or it is the same for strangers.
	NoGrounds Grounds = iota
	// OfProject: the job is one of a project, or of a group's projects.
	OfProject
	// OfProtection: the job's ref is protected, so the author of what it runs may push there.
	OfProtection
	// OfRunner: the administrator said it of the runner that called.
	OfRunner
)

// Trust is what a fact does for a rule that gives a job more than the default. The zero value is nothing: a new fact
// raises no trust until somebody decides that it may.
type Trust struct {
	// Raises says on what a rule rests that demands this fact. Before you set it, ask: can a stranger's job, in a
	// project of the stranger's own or in a fork, have the demanded value?
	Raises Grounds
	// Narrows says on what a rule rests that demands this fact beside protection; alone it is nothing.
	Narrows Grounds
	// Because says, to follow "no: ", why the fact does not raise trust; empty when it does.
	Because string
	// Chosen says that a job's author chooses the value freely: what he writes, how he names a ref, what he starts. A rule that
	// is stricter by such a fact is avoided by another value.
	Chosen bool
}

// Kind is the type of a fact's value.
type Kind int

// The kinds, with the Go type of a known value.
const (
	Truth  Kind = iota + 1 // bool
	Number                 // int64
	Text                   // string
	Texts                  // []string
	Table                  // map[string]string
)

// FactDefinition is one statement that can be made about a job.
type FactDefinition struct {
	// Name is "git.protected": a group and a name in it.
	Name       string
	Kind       Kind
	Provenance Provenance
	Trust      Trust
	// Meaning is one line for people.
	Meaning string
	// Read returns the value, nil when it is unknown. Unknown is neither false nor empty.
	Read func(Facts) any
}

// Source says where a fact came from, for people.
func (d FactDefinition) Source() string {
	group, _, _ := strings.Cut(d.Name, ".")
	switch group {
	case "runner":
		return "the administrator's --runner-class"
	case "id":
		return "a verified id token"
	case "claimed":
		return "the job's author"
	default:
		return "GitLab's job response"
	}
}

// Bounds of what a fact holds. What goes beyond them is no fact of an honest job: it is unknown.
const (
	MaxText      = 4 << 10 // bytes
	MaxTexts     = 256     // items
	MaxVariables = 10000
	MaxVariable  = 256 << 10 // bytes of a variable's value
)

// FactTable returns every fact that can be known about a job. The order is that of the documentation.
func FactTable() []FactDefinition {
	var table []FactDefinition
	table = append(table, responseFacts()...)
	table = append(table, identityFacts()...)
	return append(table, claimedFacts()...)
}

// What facts do for trust.
var (
	byProject    = Trust{Raises: OfProject}
	byProtection = Trust{Raises: OfProtection}

	everybody  = Trust{Because: "every job has one"}
	sameForAll = Trust{Because: "it is the same for strangers"}
	person     = Trust{Because: "a fork's merge request that a member runs carries the member's name and the fork's scripts"}
	beside     = Trust{Because: "such a job runs beside the author's files"}
	pushed     = Trust{Because: "whoever may push names it", Chosen: true}
	written    = Trust{Because: "the job's author decides it", Chosen: true}
)

func responseFacts() []FactDefinition {
	number := func(name, meaning string, trust Trust, field func(*gitlab.JobResponse) *int64) FactDefinition {
		return FactDefinition{name, Number, Attested, trust, meaning, func(f Facts) any { return known(field(f.Job)) }}
	}
	text := func(name, meaning string, trust Trust, field func(*gitlab.JobResponse) *string) FactDefinition {
		return FactDefinition{name, Text, Attested, trust, meaning, func(f Facts) any { return plain(field(f.Job)) }}
	}
	truth := func(name, meaning string, trust Trust, field func(*gitlab.JobResponse) *bool) FactDefinition {
		return FactDefinition{name, Truth, Attested, trust, meaning, func(f Facts) any { return known(field(f.Job)) }}
	}
	type job = *gitlab.JobResponse
	return []FactDefinition{
		number("job.id", "the job", everybody, func(j job) *int64 { return positive(&j.ID) }),
		number("job.project_id", "its project", byProject, func(j job) *int64 { return positive(j.JobInfo.ProjectID) }),
		text("job.project_path", "its project's full path", byProject, func(j job) *string { return j.JobInfo.ProjectFullPath }),
		number("job.namespace_id", "the group or user that the project is in", byProject, func(j job) *int64 { return positive(j.JobInfo.NamespaceID.Value) }),
		number("job.root_namespace_id", "the top-level group of that", byProject, func(j job) *int64 { return positive(j.JobInfo.RootNamespaceID.Value) }),
		number("job.organization_id", "the organization of that", Trust{Because: "a GitLab of your own has one for everybody"},
			func(j job) *int64 { return positive(j.JobInfo.OrganizationID.Value) }),
		text("job.instance_id", "the GitLab instance", sameForAll, func(j job) *string { return j.JobInfo.InstanceID.Value }),
		number("job.pipeline_id", "its pipeline", everybody, func(j job) *int64 { return positive(j.JobInfo.PipelineID) }),
		number("job.user_id", "who started it", person, func(j job) *int64 { return positive(j.JobInfo.UserID) }),
		number("job.timeout", "its time-out in seconds", Trust{Because: "the job's author sets it", Chosen: true}, func(j job) *int64 { return positive(j.RunnerInfo.Timeout) }),
		truth("job.policy_job", "a security policy of GitLab's made it", beside, func(j job) *bool { return j.PolicyOptions.ExecutionPolicyJob.Value }),
		text("job.policy_name", "that policy's name", beside, func(j job) *string { return j.PolicyOptions.PolicyName.Value }),

		truth("git.protected", "its ref is protected", byProtection, func(j job) *bool { return j.GitInfo.Protected }),
		text("git.ref", "the branch, tag or refs/merge-requests/... that is built", pushed, func(j job) *string { return j.GitInfo.Ref }),
		text("git.ref_type", `"branch" or "tag"`, pushed, func(j job) *string { return j.GitInfo.RefType }),
		{"git.merge_request", Truth, Attested, Trust{Because: "whoever may push or open a merge request decides it, and its absence"},
			"a ref or refspec of it is below refs/merge-requests/", isMergeRequest},
		text("git.sha", "the commit", pushed, func(j job) *string { return j.GitInfo.SHA }),
		{"git.repo_url", Text, Attested, Trust{Because: "job.project_path says more"}, "the repository's URL, without credentials", repositoryURL},
		{"git.refspecs", Texts, Attested, pushed, "what is fetched", func(f Facts) any { return plainList(f.Job.GitInfo.Refspecs.Value) }},

		{"runner.class", Text, Attested, Trust{Raises: OfRunner}, "the --runner-class of the runner that called", func(f Facts) any {
			if f.RunnerClass == "" {
				return nil
			}
			return plain(&f.RunnerClass)
		}},
	}
}

func identityFacts() []FactDefinition {
	define := func(name string, kind Kind, meaning string, trust Trust, field func(*Identity) any) FactDefinition {
		return FactDefinition{name, kind, Attested, trust, meaning, func(f Facts) any {
			if f.Identity == nil {
				return nil
			}
			return field(f.Identity)
		}}
	}
	type id = *Identity
	started := Trust{Because: "anybody can start a child pipeline, a push or a schedule", Chosen: true}
	deployed := Trust{Because: "the job's author names it", Chosen: true}
	deploysTo := Trust{Because: "it says who may deploy, not who may push what is run", Chosen: true}
	config := Trust{Because: "it ends in a ref that whoever may push names; beside git.protected or id.ref_protected it narrows", Narrows: OfProject}
	return []FactDefinition{
		define("id.job_id", Number, "the job", everybody, func(i id) any { return known(positive(i.JobID)) }),
		define("id.project_id", Number, "its project", byProject, func(i id) any { return known(positive(i.ProjectID)) }),
		define("id.project_path", Text, "its project's full path", byProject, func(i id) any { return plain(i.ProjectPath) }),
		define("id.project_visibility", Text, `"private", "internal" or "public"`, Trust{Because: "anybody can make such a project"},
			func(i id) any { return plain(i.ProjectVisibility) }),
		define("id.namespace_id", Number, "the group or user that the project is in", byProject, func(i id) any { return known(positive(i.NamespaceID)) }),
		define("id.namespace_path", Text, "that group's or user's full path", byProject, func(i id) any { return plain(i.NamespacePath) }),
		define("id.user_id", Number, "who started it", person, func(i id) any { return known(positive(i.UserID)) }),
		define("id.user_login", Text, "that user's name", person, func(i id) any { return plain(i.UserLogin) }),
		define("id.user_access_level", Text, "that user's role in the project", person, func(i id) any { return plain(i.UserAccessLevel) }),
		define("id.pipeline_id", Number, "its pipeline", everybody, func(i id) any { return known(positive(i.PipelineID)) }),
		define("id.pipeline_source", Text, "what started the pipeline", started, func(i id) any { return plain(i.PipelineSource) }),
		define("id.ref", Text, "the branch or tag", pushed, func(i id) any { return plain(i.Ref) }),
		define("id.ref_type", Text, `"branch" or "tag"`, pushed, func(i id) any { return plain(i.RefType) }),
		define("id.ref_protected", Truth, "its ref is protected", byProtection, func(i id) any { return known(i.RefProtected) }),
		define("id.sha", Text, "the commit", pushed, func(i id) any { return plain(i.SHA) }),
		define("id.environment", Text, "the environment that it deploys to", deployed, func(i id) any { return plain(i.Environment) }),
		define("id.environment_protected", Truth, "that environment is protected", deploysTo, func(i id) any { return known(i.EnvironmentProtected) }),
		define("id.runner_id", Number, "the runner", sameForAll, func(i id) any { return known(positive(i.RunnerID)) }),
		define("id.runner_environment", Text, `"gitlab-hosted" or "self-hosted"`, sameForAll, func(i id) any { return plain(i.RunnerEnvironment) }),
		define("id.ci_config_ref_uri", Text, "the .gitlab-ci.yml in force, with project and ref", config, func(i id) any { return plain(i.CIConfigRefURI) }),
	}
}

func claimedFacts() []FactDefinition {
	define := func(name string, kind Kind, meaning string, read func(*gitlab.JobResponse) any) FactDefinition {
		return FactDefinition{name, kind, Claimed, written, meaning, func(f Facts) any { return read(f.Job) }}
	}
	type job = *gitlab.JobResponse
	return []FactDefinition{
		define("claimed.job_name", Text, "the job's name", func(j job) any { return bounded(j.JobInfo.Name) }),
		define("claimed.stage", Text, "its stage", func(j job) any { return bounded(j.JobInfo.Stage) }),
		define("claimed.image", Text, "what image: names; empty when it names none", func(j job) any { return bounded(j.Image.Name) }),
		define("claimed.pull_policies", Texts, "what image:pull_policy names", func(j job) any { return boundedList(j.Image.PullPolicies) }),
		define("claimed.services", Texts, "the images that services: names", func(j job) any { return boundedList(j.ServiceNames()) }),
		define("claimed.variables", Table, "every variable, the last of several with one name", variables),
	}
}

// isMergeRequest reports whether GitLab builds a job for a merge request. It takes the ref and the refspecs to say no:
// with one of them unknown it is unknown.
func isMergeRequest(f Facts) any {
	const mergeRequests = "refs/merge-requests/"
	git := f.Job.GitInfo
	ref, refKnown := plain(git.Ref).(string)
	specs, specsKnown := plainList(git.Refspecs.Value).([]string)
	isOne := func(spec string) bool { return strings.Contains(spec, mergeRequests) }
	switch {
	case refKnown && strings.HasPrefix(ref, mergeRequests), slices.ContainsFunc(specs, isOne):
		return true
	case refKnown && specsKnown && len(specs) > 0:
		return false
	default:
		return nil
	}
}

// repositoryURL leaves out the job token.
func repositoryURL(f Facts) any {
	u, err := url.Parse(f.Job.GitInfo.RepoURL)
	if err != nil || f.Job.GitInfo.RepoURL == "" || u.Host == "" {
		return nil
	}
	clean := (&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}).String()
	return plain(&clean)
}

func variables(job *gitlab.JobResponse) any {
	if len(job.Variables) > MaxVariables {
		return nil
	}
	table := make(map[string]string, len(job.Variables))
	for _, v := range job.Variables {
		if len(v.Key) > MaxText || len(v.Value) > MaxVariable {
			return nil
		}
		table[v.Key] = string(v.Value)
	}
	return table
}

// known returns what a pointer points to, nil for none. An interface that holds a nil pointer would not be nil.
func known[T any](value *T) any {
	if value == nil {
		return nil
	}
	return *value
}

// positive takes ids: GitLab has none that is zero or less.
func positive(id *int64) *int64 {
	if id == nil || *id <= 0 {
		return nil
	}
	return id
}

// plain takes a text that GitLab attested, unless it is empty, absurdly long, or has characters that no name of
// GitLab's has: a prefix of such a text might be a name that a rule trusts.
func plain(text *string) any {
	if text == nil || !isPlain(*text) {
		return nil
	}
	return *text
}

// AttestedText returns a text that GitLab attested, and nothing for one that is no fact: unknown, empty, or strange.
func AttestedText(text *string) string {
	known, _ := plain(text).(string)
	return known
}

func isPlain(text string) bool {
	strange := func(r rune) bool { return unicode.IsControl(r) || r == utf8.RuneError }
	return text != "" && len(text) <= MaxText && !strings.ContainsFunc(text, strange)
}

func plainList(list *[]string) any {
	if list == nil || len(*list) > MaxTexts {
		return nil
	}
	for _, text := range *list {
		if !isPlain(text) {
			return nil
		}
	}
	return *list
}

// bounded takes what an author wrote, whatever it is, up to a size.
func bounded(text string) any {
	if len(text) > MaxText {
		return nil
	}
	return text
}

func boundedList(list []string) any {
	if len(list) > MaxTexts {
		return nil
	}
	for _, text := range list {
		if len(text) > MaxText {
			return nil
		}
	}
	return list
}
