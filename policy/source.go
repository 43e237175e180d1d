package policy

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"time"

	"github.com/airlock-ci/airlock/isolation"
)

// Source is a policy as the administrator wrote it.
type Source struct {
	// Default is what a job gets that no rule matches.
	Default Grant
	// Rules are tried in order; the first that matches decides alone.
	Rules []Rule
	// IDToken says which id tokens are believed; it is part of the digest only.
	IDToken string
}

// Grant is what a job gets.
type Grant struct {
	Level  isolation.Level
	Limits isolation.Limits
	// Timeout ends the job after its preparation began; 0 leaves that to GitLab.
	Timeout time.Duration
	// Network is "nat" or "none".
	Network string
	// Images and Services are patterns of package policy/imagepattern; empty allows all.
	Images, Services []string
	// PullPolicies are the allowed ones, the first is the default.
	PullPolicies []string
	// CacheScope is "project" or "job".
	CacheScope string
}

// Rule is one rule. Nil fields keep what the default grants.
type Rule struct {
	// Name is unique; "default" is taken.
	Name string
	// When is a CEL expression over the facts of package jobs; it yields a bool.
	When string
	// Reject, when not empty, refuses the job with this message; then nothing else is set.
	Reject string

	Isolation             *isolation.Level
	Memory, PIDs, Scratch *int64
	CPUs                  *float64
	Timeout               *time.Duration
	Network, CacheScope   *string
	Images, Services      []string
	PullPolicies          []string
}

// grant is what the rule gives: the default with the rule's changes.
func (r Rule) grant(base Grant) Grant {
	g := base
	set(&g.Level, r.Isolation)
	set(&g.Limits.Memory, r.Memory)
	set(&g.Limits.PIDs, r.PIDs)
	set(&g.Limits.Scratch, r.Scratch)
	set(&g.Limits.CPUs, r.CPUs)
	set(&g.Timeout, r.Timeout)
	set(&g.Network, r.Network)
	set(&g.CacheScope, r.CacheScope)
	setList(&g.Images, r.Images)
	setList(&g.Services, r.Services)
	setList(&g.PullPolicies, r.PullPolicies)
	return g
}

func set[T any](dst, value *T) {
	if value != nil {
		*dst = *value
	}
}

func setList(dst *[]string, value []string) {
	if value != nil {
		*dst = value
	}
}

// digest identifies what decides: two policies with one digest decide alike.
func digest(src Source) string {
	encoded, err := json.Marshal(src)
	if err != nil {
		return "sha256:unknown" // never: the types above encode
	}
	sum := sha256.Sum256(encoded)
	return "sha256:" + hex.EncodeToString(sum[:])
}
