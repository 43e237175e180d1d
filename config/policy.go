package config

import (
	"fmt"
	"math"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/airlock-ci/airlock/isolation"
	"github.com/airlock-ci/airlock/policy"
)

// Policy is [policy], compiled: a configuration that can be loaded has a policy that can be used.
type Policy struct {
	*policy.Policy
	// IDToken is [policy.id_token]; nil without it: then no id token is believed.
	IDToken *IDToken
	// Warnings are what is worth a second look in it.
	Warnings []Problem
}

// Grants are all that a job can get by this configuration, what no rule grants first.
func (c *Config) Grants() []policy.Grant {
	if c.Policy != nil {
		return c.Policy.Grants()
	}
	return []policy.Grant{c.DefaultGrant()}
}

// IDToken is [policy.id_token].
type IDToken struct {
	// Issuer is GitLab's URL, as in the token's iss.
	Issuer string
	// Audience is the token's aud.
	Audience string
	// Variable is the name that .gitlab-ci.yml gives to the token; default "AIRLOCK_ID_TOKEN".
	Variable string
	// Keys is a file with the issuer's keys (a JWKS). Empty: they are fetched from the issuer.
	Keys string
}

// policyKeys returns the keys of [policy] and [policy.id_token].
func policyKeys() []key {
	return []key{
		{"policy.default", func(c *Config, r *reading) { r.level(&c.Isolation) }},
		{"policy.id_token.issuer", func(c *Config, r *reading) { r.text(&c.idToken().Issuer, isIssuer) }},
		{"policy.id_token.audience", func(c *Config, r *reading) { r.text(&c.idToken().Audience, isAudience) }},
		{"policy.id_token.variable", func(c *Config, r *reading) { r.text(&c.idToken().Variable, isVariable) }},
		{"policy.id_token.keys", func(c *Config, r *reading) { r.text(&c.idToken().Keys, isAbsolute) }},
	}
}

func (c *Config) idToken() *IDToken {
	if c.Policy == nil {
		c.Policy = &Policy{}
	}
	if c.Policy.IDToken == nil {
		c.Policy.IDToken = &IDToken{Variable: "AIRLOCK_ID_TOKEN"}
	}
	return c.Policy.IDToken
}

// ruleKeys returns the keys of a rule, in the order of the documentation. Ranges are those of the same keys at the
// top level.
func ruleKeys() []listedKey[policy.Rule] {
	return []listedKey[policy.Rule]{
		{"name", func(rule *policy.Rule, r *reading) { r.text(&rule.Name, anything) }},
		{"when", func(rule *policy.Rule, r *reading) { r.text(&rule.When, anything) }},
		{"isolation", func(rule *policy.Rule, r *reading) { optional(&rule.Isolation, r.level) }},
		{"reject", func(rule *policy.Rule, r *reading) { r.text(&rule.Reject, isMessage) }},
		{"network", func(rule *policy.Rule, r *reading) { optional(&rule.Network, r.networkMode) }},
		{"images", func(rule *policy.Rule, r *reading) { r.oneOrMore(&rule.Images, isImagePattern) }},
		{"services", func(rule *policy.Rule, r *reading) { r.oneOrMore(&rule.Services, isImagePattern) }},
		{"pull_policies", func(rule *policy.Rule, r *reading) { r.oneOrMore(&rule.PullPolicies, isPullPolicy) }},
		{"cache", func(rule *policy.Rule, r *reading) { optional(&rule.CacheScope, choice(r, "project", "job")) }},
		{"limits.memory", func(rule *policy.Rule, r *reading) { optional(&rule.Memory, r.room) }},
		{"limits.cpus", func(rule *policy.Rule, r *reading) {
			cpus := math.NaN() // zero is a value: all cores
			if r.cores(&cpus); !math.IsNaN(cpus) {
				rule.CPUs = &cpus
			}
		}},
		{"limits.pids", func(rule *policy.Rule, r *reading) { optional(&rule.PIDs, r.processes) }},
		{"limits.scratch", func(rule *policy.Rule, r *reading) { optional(&rule.Scratch, r.room) }},
		{"limits.timeout", func(rule *policy.Rule, r *reading) {
			optional(&rule.Timeout, func(d *time.Duration) { r.duration(d, time.Second, 30*24*time.Hour) })
		}},
	}
}

// optional points dst to what read sets, and leaves it nil when read sets nothing. It is for keys that admit no zero value.
func optional[T comparable](dst **T, read func(*T)) {
	var value, zero T
	if read(&value); value != zero {
		*dst = &value
	}
}

func choice(r *reading, names ...string) func(*string) {
	return func(dst *string) { r.choice(dst, names...) }
}

// settlePolicy reads the rules and compiles the policy, if there is one.
func settlePolicy(c *Config, doc document, given map[string]entry, all *Error) {
	if !doc.hasPolicy {
		return
	}
	if e, ok := given["isolation"]; ok {
		all.add(e.keyAt, e.key, "it and [policy] exclude each other", "remove it: the level of jobs that no rule matches is default in [policy]")
	}
	if c.Policy == nil {
		c.Policy = &Policy{}
	}
	before := len(all.Problems)
	settleIDToken(c.Policy.IDToken, doc, given, all)
	source := policy.Source{Default: c.DefaultGrant()}
	if token := c.Policy.IDToken; token != nil {
		source.IDToken = fmt.Sprintf("%q %q %q", token.Issuer, token.Audience, token.Variable)
	}
	for _, table := range doc.rules {
		source.Rules = append(source.Rules, readRule(table, all))
	}
	if len(all.Problems) > before {
		return // of rules that were misread nothing true can be said
	}
	compiled, problems := policy.Compile(source)
	for _, p := range problems {
		all.Problems = append(all.Problems, doc.place(p))
	}
	if compiled == nil {
		return
	}
	c.Policy.Policy = compiled
	for i := range source.Rules {
		if name := firstOf(compiled.Reads(i), "id."); name != "" && c.Policy.IDToken == nil {
			all.Problems = append(all.Problems, doc.place(policy.Problem{
				Rule: i, Key: "when", Offset: max(0, strings.Index(source.Rules[i].When, name)),
				Message: name + " is never known: no id token is believed", Remedy: "add [policy.id_token] with issuer and audience",
			}))
		}
	}
	for _, p := range compiled.Lint() {
		c.Policy.Warnings = append(c.Policy.Warnings, doc.place(p))
	}
}

func firstOf(names []string, prefix string) string {
	i := slices.IndexFunc(names, func(name string) bool { return strings.HasPrefix(name, prefix) })
	if i < 0 {
		return ""
	}
	return names[i]
}

// DefaultGrant is what a job gets that no rule matches: what the keys of the top level say.
func (c *Config) DefaultGrant() policy.Grant {
	return policy.Grant{
		Level: c.Isolation, Limits: c.Limits, Network: c.NetworkMode, Images: c.AllowedImages,
		PullPolicies: c.JobPullPolicies(), CacheScope: c.Cache.Scope,
	}
}

// Levels are all that jobs can get without asking for more, that of jobs which no rule matches first.
func (c *Config) Levels() []isolation.Level {
	var levels []isolation.Level
	for _, g := range c.Grants() {
		if !slices.Contains(levels, g.Level) {
			levels = append(levels, g.Level)
		}
	}
	return levels
}

// JobPullPolicies are those that a job may ask for, the default first.
func (c *Config) JobPullPolicies() []string {
	policies := slices.Clone(c.PullPolicies)
	for _, p := range c.AllowedPullPolicies {
		if !slices.Contains(policies, p) {
			policies = append(policies, p)
		}
	}
	return policies
}

func settleIDToken(token *IDToken, doc document, given map[string]entry, all *Error) {
	if token == nil {
		if doc.idTokenAt != (position{}) {
			all.add(doc.idTokenAt, "policy.id_token", "issuer is missing", "add the URL of GitLab and the audience of the tokens")
		}
		return
	}
	at := func(name string) position {
		if e, ok := given["policy.id_token."+name]; ok {
			return e.at
		}
		return doc.idTokenAt
	}
	for _, required := range []struct{ name, value, remedy string }{
		{"issuer", token.Issuer, `add the URL of GitLab, as in issuer = "https://gitlab.example.com"`},
		{"audience", token.Audience, `add what aud: says in .gitlab-ci.yml, as in audience = "https://airlock.example.com"`},
	} {
		if _, ok := given["policy.id_token."+required.name]; !ok {
			all.add(doc.idTokenAt, "policy.id_token", required.name+" is missing", required.remedy)
		}
	}
	if strings.HasPrefix(token.Issuer, "http:") && token.Keys == "" {
		all.add(at("issuer"), "policy.id_token.issuer", quote(token.Issuer)+" is not encrypted: whoever is on the way can forge its keys",
			"use https, or name a file with the keys with keys = \"...\"")
	}
}

// readRule reads one [[policy.rules]].
func readRule(table listedTable, all *Error) policy.Rule {
	rule := readListed(table, rulesTable, ruleKeys(), all)
	if rule.Reject == "" {
		return rule
	}
	for _, e := range table.entries {
		if e.key != "name" && e.key != "when" && e.key != "reject" {
			all.add(e.keyAt, "policy.rules."+e.key, "a rule that rejects grants nothing", "remove it, or reject")
		}
	}
	return rule
}

// place finds a problem of the policy in the file: in the middle of an expression, if that is where it is.
func (d document) place(p policy.Problem) Problem {
	at, key := position{1, 1}, "policy.rules"
	if p.Rule < len(d.rules) {
		at = d.rules[p.Rule].at
		i := slices.IndexFunc(d.rules[p.Rule].entries, func(e entry) bool { return e.key == p.Key })
		if i >= 0 {
			at = d.rules[p.Rule].entries[i].at
		}
		if i >= 0 && p.Key == "when" {
			at = d.within(d.rules[p.Rule].entries[i], p.Offset)
		}
	}
	if p.Key != "" {
		key += "." + p.Key
	}
	return Problem{Line: at.line, Column: at.column, Key: key, Message: p.Message, Remedy: p.Remedy}
}

func anything(string) (string, string) { return "", "" }

func isMessage(s string) (string, string) {
	if len(s) > 500 || strings.TrimSpace(s) == "" || strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return "is not a message", "write one line for the job's author, 500 bytes at most"
	}
	return "", ""
}

func isIssuer(s string) (string, string) {
	u, err := url.Parse(s)
	if err != nil || (u.Scheme != "https" && u.Scheme != "http") || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return "is not GitLab's URL", `write it as the tokens have it in iss, as in "https://gitlab.example.com"`
	}
	return "", ""
}

func isAudience(s string) (string, string) {
	if s == "" || len(s) > 1024 || strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return "is not an audience", "write what aud: says in .gitlab-ci.yml, 1024 bytes at most"
	}
	return "", ""
}

var variablePattern = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

func isVariable(s string) (string, string) {
	if len(s) > 255 || !variablePattern.MatchString(s) {
		return "is not a variable's name", `write letters, digits and "_", as in "AIRLOCK_ID_TOKEN"`
	}
	return "", ""
}
