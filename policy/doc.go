// Package policy turns the facts of a job into a decision: which level, which limits, which network, or a refusal.
//
// A Policy is compiled from the administrator's rules: typed, bounded in cost, and checked so that no rule can
// give a job more than the default on the word of the job's author (guard.go). Deciding is total: whatever a job
// looks like, the answer is a decision or a refusal, and doubt ends at the default or at something stronger
// (decide.go). The package does no I/O and knows no runtime; package jobs calls it, config compiles it,
// and `airlock policy` shows what it does.
package policy
