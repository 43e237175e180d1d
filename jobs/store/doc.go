// Package store keeps the journal: what every sandbox owns or is about to own on this host, written before it
// happens, so that whoever comes after a crash can undo it. Journal is the real one, in a bbolt file; Memory
// and Failing stand beside it for tests and for callers that need no successor.
//
// It never holds a secret, never decides what is removed, and is used by one process at a time. Package jobs
// writes it, jobs/reaper reads it; testing/conformance says what every implementation must do.
//
// # Durability
//
// The file is written without fsync. A record has to outlive the executor, not the host: after a SIGKILL the
// page cache still has every write, and bbolt's two alternating meta pages make each transaction whole or
// absent. After a power loss the sandboxes' kernel objects are gone in any case, and the reaper finds files
// by name. A file that a power loss did tear is moved aside, with an event in the log, and replaced by an
// empty one. An fsync would cost milliseconds at each of about five writes per job and buy nothing.
//
// # Format
//
// Bucket "meta", key "format": the decimal format version. Bucket "sandboxes": id -> JSON entry. Bucket
// "temp-dirs": big-endian uid + path -> empty. Files of every released format stay in testdata and open for
// ever.
package store
