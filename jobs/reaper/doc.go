// Package reaper is the pass that compares the journal and reality with the living sandboxes and removes what
// no job owns: on the executor's start, every minute, and when an administrator asks.
//
// It decides in Plan, a pure function, and acts through Resources that the executor gives it. It never touches
// what a living sandbox owns, never goes on undoing a sandbox past a step that failed, and never forgets a
// record before everything it names is gone. RunnerDirs is its own Resource: what dead runners left.
package reaper
