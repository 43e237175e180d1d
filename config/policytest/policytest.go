// Package policytest runs an administrator's tests of a policy: a table of jobs and of what the policy has to decide
// about them. It reads the files that the table names, and decides without a service.
//
// A file of tests is TOML:
//
//	[[test]]
//	name = "a merge request of a fork"
//	response = "responses/fork.json"      # a saved JOB_RESPONSE_FILE, relative to this file; may be left out
//	runner_class = "protected"            # as --runner-class
//	[test.job.git_info]                   # laid over the response; keys as GitLab writes them
//	protected = false
//	[test.variables]                      # added after the response's own
//	CI_COMMIT_REF_PROTECTED = "true"
//	[test.id_token]                       # claims, taken as verified
//	ref_protected = "true"
//	[test.expect]                         # what is not named is not compared
//	isolation = "hypervisor"
//	rule = "forks"
package policytest

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"

	"github.com/airlock-ci/airlock/config"
	"github.com/airlock-ci/airlock/gitlab"
	"github.com/airlock-ci/airlock/internal/fault"
	"github.com/airlock-ci/airlock/policy"
	"github.com/airlock-ci/airlock/policy/idtoken"
)

// Suite is a file of tests.
type Suite struct {
	Path  string
	Tests []Test
}

// Test is one job and what is expected of it.
type Test struct {
	Name   string
	Facts  policy.Facts
	Expect map[string]any
}

// Result is what came of a test; Problems is empty when it passed.
type Result struct {
	Name     string   `json:"name"`
	Problems []string `json:"problems"`
}

// file is the form of a suite.
type file struct {
	Test []struct {
		Name        string            `toml:"name"`
		Response    string            `toml:"response"`
		RunnerClass string            `toml:"runner_class"`
		Job         map[string]any    `toml:"job"`
		Variables   map[string]string `toml:"variables"`
		IDToken     map[string]any    `toml:"id_token"`
		Expect      map[string]any    `toml:"expect"`
	} `toml:"test"`
}

// Load reads a suite with all the files that it names. Every error is the administrator's.
func Load(path string) (*Suite, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fault.Adminf("reading the tests: %w", err)
	}
	if data, err = config.ReadText(data, path); err != nil {
		return nil, err
	}
	var f file
	decoder := toml.NewDecoder(strings.NewReader(string(data))).DisallowUnknownFields()
	if err := decoder.Decode(&f); err != nil {
		return nil, describe(path, err)
	}
	if len(f.Test) == 0 {
		return nil, fault.WithRemedy(fault.Adminf("%s has no tests", path), "write [[test]] with name, job and expect")
	}
	suite := &Suite{Path: path}
	for i, t := range f.Test {
		fail := func(err error) (*Suite, error) {
			return nil, fault.Adminf("%s: test %d, %q: %w", path, i+1, t.Name, err)
		}
		switch {
		case t.Name == "":
			return fail(errors.New("it has no name"))
		case len(t.Expect) == 0:
			return fail(errors.New("it expects nothing: name at least isolation, rule or reject below [test.expect]"))
		}
		if err := checkExpected(t.Expect); err != nil {
			return fail(err)
		}
		response, err := response(filepath.Dir(path), t.Response, t.Job, t.Variables)
		if err != nil {
			return fail(err)
		}
		facts := policy.Facts{RunnerClass: t.RunnerClass}
		if facts.Job, err = gitlab.ParseJobResponse(response); err != nil {
			return fail(err)
		}
		if t.IDToken != nil {
			claims, err := json.Marshal(t.IDToken)
			if err != nil {
				return fail(err)
			}
			if facts.Identity, err = idtoken.ParseClaims(claims); err != nil {
				return fail(err)
			}
		}
		suite.Tests = append(suite.Tests, Test{Name: t.Name, Facts: facts, Expect: t.Expect})
	}
	return suite, nil
}

// describe gives an error of the decoder's its place.
func describe(path string, err error) error {
	var strict *toml.StrictMissingError
	var decode *toml.DecodeError
	switch {
	case errors.As(err, &strict) && len(strict.Errors) > 0:
		decode = &strict.Errors[0]
		line, column := decode.Position()
		return fault.WithRemedy(fault.Adminf("%s:%d:%d: unknown key %s", path, line, column, strings.Join(decode.Key(), ".")),
			"the keys of a test are name, response, runner_class, job, variables, id_token and expect")
	case errors.As(err, &decode):
		line, column := decode.Position()
		return fault.Adminf("%s:%d:%d: %s", path, line, column, strings.TrimPrefix(decode.Error(), "toml: "))
	default:
		return fault.Adminf("%s: %w", path, err)
	}
}

// response is the job response of a test: the saved one, if any, with the test's own keys laid over it.
func response(dir, name string, job map[string]any, variables map[string]string) ([]byte, error) {
	whole := map[string]any{"id": 1}
	if name != "" {
		data, err := os.ReadFile(filepath.Join(dir, filepath.FromSlash(name)))
		if err != nil {
			return nil, err
		}
		if len(job) == 0 && len(variables) == 0 {
			return data, nil // as it is, with all that may be strange about it
		}
		whole = map[string]any{}
		decoder := json.NewDecoder(strings.NewReader(string(data)))
		decoder.UseNumber()
		if err := decoder.Decode(&whole); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	overlay(whole, job)
	list, _ := whole["variables"].([]any)
	for _, key := range slices.Sorted(maps.Keys(variables)) {
		list = append(list, map[string]any{"key": key, "value": variables[key]})
	}
	if list != nil {
		whole["variables"] = list
	}
	return json.Marshal(whole)
}

// overlay lays one object over another, table by table.
func overlay(dst, src map[string]any) {
	for key, value := range src {
		above, isTable := value.(map[string]any)
		below, wasTable := dst[key].(map[string]any)
		if isTable && wasTable {
			overlay(below, above)
			continue
		}
		dst[key] = value
	}
}

// checkExpected refuses expectations that nothing can meet.
func checkExpected(expect map[string]any) error {
	known := slices.Sorted(maps.Keys(outcome(policy.Explanation{Decision: &policy.Outcome{}})))
	for key := range expect {
		if !slices.Contains(known, key) {
			return fmt.Errorf("expect: unknown key %q: the keys are %s", key, strings.Join(known, ", "))
		}
	}
	return nil
}

// outcome is an explanation as tests compare it: the decision's keys, rule and reject.
func outcome(e policy.Explanation) map[string]any {
	all := map[string]any{}
	if e.Decision != nil {
		encoded, _ := json.Marshal(e.Decision) // plain fields
		_ = json.Unmarshal(encoded, &all)
	}
	all["rule"], all["reject"] = e.Rule, e.Refusal != ""
	return all
}

// Run decides about every test's job and compares.
func (s *Suite) Run(p *policy.Policy) []Result {
	results := make([]Result, 0, len(s.Tests))
	for _, t := range s.Tests {
		e := p.Explain(t.Facts)
		got := outcome(e)
		r := Result{Name: t.Name, Problems: []string{}}
		for _, key := range slices.Sorted(maps.Keys(t.Expect)) {
			value, isThere := got[key]
			if want := t.Expect[key]; !isThere {
				r.Problems = append(r.Problems, fmt.Sprintf("%s: the job is rejected, want %s", key, show(want)))
			} else if show(value) != show(want) {
				r.Problems = append(r.Problems, fmt.Sprintf("%s is %s, want %s", key, show(value), show(want)))
			}
		}
		if len(r.Problems) > 0 {
			r.Problems = append(r.Problems, e.Reason)
		}
		results = append(results, r)
	}
	return results
}

// show writes a value so that numbers of TOML and of JSON compare.
func show(value any) string {
	encoded, err := json.Marshal(value)
	if err != nil {
		return fmt.Sprint(value)
	}
	return string(encoded)
}
