package policy

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/airlock-ci/airlock/internal/bytesize"
	"github.com/airlock-ci/airlock/isolation"
	"github.com/airlock-ci/airlock/policy/imagepattern"
)

// dimension is one of the dimensions in which a grant may go beyond another.
type dimension struct {
	key string
	// compare is positive when a grants more than b, negative when it grants less; incomparable grants more.
	compare func(a, b Grant) int
	// keep copies the dimension from src.
	keep func(dst *Grant, src Grant)
	show func(g Grant) string
}

// dimensions are all dimensions of a grant. A field that Grant gains is added here, or a rule could widen it unguarded.
func dimensions() []dimension {
	return []dimension{
		{"isolation",
			func(a, b Grant) int { return cmp.Compare(b.Level, a.Level) },
			func(dst *Grant, src Grant) { dst.Level = src.Level },
			func(g Grant) string { return g.Level.String() }},
		limit("limits.memory", func(l *isolation.Limits) *int64 { return &l.Memory }, bytesize.Format),
		limit("limits.cpus", func(l *isolation.Limits) *float64 { return &l.CPUs }, func(n float64) string { return fmt.Sprintf("%g", n) }),
		limit("limits.pids", func(l *isolation.Limits) *int64 { return &l.PIDs }, func(n int64) string { return fmt.Sprint(n) }),
		limit("limits.scratch", func(l *isolation.Limits) *int64 { return &l.Scratch }, bytesize.Format),
		{"limits.timeout",
			func(a, b Grant) int { return compareLimits(a.Timeout, b.Timeout) },
			func(dst *Grant, src Grant) { dst.Timeout = src.Timeout },
			func(g Grant) string { return showLimit(g.Timeout, time.Duration.String) }},
		{"network",
			func(a, b Grant) int { return compareWords(a.Network, b.Network, "none", "nat") },
			func(dst *Grant, src Grant) { dst.Network = src.Network },
			func(g Grant) string { return g.Network }},
		{"images",
			func(a, b Grant) int { return compareSets(imagepattern.Within, a.Images, b.Images) },
			func(dst *Grant, src Grant) { dst.Images = src.Images },
			func(g Grant) string { return showPatterns(g.Images) }},
		{"services",
			func(a, b Grant) int { return compareSets(imagepattern.Within, a.Services, b.Services) },
			func(dst *Grant, src Grant) { dst.Services = src.Services },
			func(g Grant) string { return showPatterns(g.Services) }},
		{"pull_policies",
			func(a, b Grant) int { return compareSets(within, a.PullPolicies, b.PullPolicies) },
			func(dst *Grant, src Grant) { dst.PullPolicies = src.PullPolicies },
			func(g Grant) string { return strings.Join(g.PullPolicies, ", ") }},
		{"cache",
			func(a, b Grant) int { return compareWords(a.CacheScope, b.CacheScope, "job", "project") },
			func(dst *Grant, src Grant) { dst.CacheScope = src.CacheScope },
			func(g Grant) string { return g.CacheScope }},
	}
}

// widened returns the dimensions in which g goes beyond base.
func widened(g, base Grant) []dimension {
	return slices.DeleteFunc(dimensions(), func(r dimension) bool { return r.compare(g, base) <= 0 })
}

// narrows reports whether g is stricter than base in any dimension.
func narrows(g, base Grant) bool {
	return slices.ContainsFunc(dimensions(), func(r dimension) bool { return r.compare(g, base) < 0 })
}

// stricter is g, but nowhere beyond base.
func stricter(g, base Grant) Grant {
	for _, r := range widened(g, base) {
		r.keep(&g, base)
	}
	return g
}

type number interface {
	~int64 | ~float64
}

func limit[T number](key string, field func(*isolation.Limits) *T, format func(T) string) dimension {
	return dimension{key,
		func(a, b Grant) int { return compareLimits(*field(&a.Limits), *field(&b.Limits)) },
		func(dst *Grant, src Grant) { *field(&dst.Limits) = *field(&src.Limits) },
		func(g Grant) string { return showLimit(*field(&g.Limits), format) }}
}

// compareLimits compares limits of which 0 is none.
func compareLimits[T number](a, b T) int {
	switch {
	case a == b:
		return 0
	case a == 0:
		return 1
	case b == 0:
		return -1
	default:
		return cmp.Compare(a, b)
	}
}

func showLimit[T number](n T, format func(T) string) string {
	if n == 0 {
		return "no limit"
	}
	return format(n)
}

// compareWords compares words that stand from the strictest to the widest. An unknown word is beyond them all.
func compareWords(a, b string, words ...string) int {
	rank := func(word string) int {
		if i := slices.Index(words, word); i >= 0 {
			return i
		}
		return len(words)
	}
	return cmp.Compare(rank(a), rank(b))
}

func showPatterns(patterns []string) string {
	if len(patterns) == 0 {
		return "all"
	}
	return strings.Join(patterns, ", ")
}

// compareSets compares what two lists allow. Lists that allow different things count as wider.
func compareSets(within func(a, b []string) bool, a, b []string) int {
	inB, inA := within(a, b), within(b, a)
	switch {
	case inB && inA:
		return 0
	case inB:
		return -1
	default:
		return 1
	}
}

func within(a, b []string) bool {
	return !slices.ContainsFunc(a, func(item string) bool { return !slices.Contains(b, item) })
}
