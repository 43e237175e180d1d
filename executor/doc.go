// Package executor is the executor's process as its callers see it: it accepts drivers and administrators on sockets that
// the supervisor hands to it, finds out who they are, and turns their calls into calls of a Backend. Beside that it
// answers the supervisor through go-plugin.
//
// It owns both boundaries and nothing behind them: what a call means is the Backend's (package jobs). It never believes a
// caller about who it is, and never writes to stdout or stderr, which belong to go-plugin. Its caller is
// cmd/airlock-executor.
package executor
