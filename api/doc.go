// Package api is the contract with an executor: what drivers and administrators say to it, and how. It is the one
// package of Airlock that other programs may import, with its sub-package control, by which a supervisor starts an
// executor and watches it. docs/contract.md is its specification, with a worked example.
//
// # Protocol
//
// The transport is a unix socket or a named pipe with yamux on it; the caller opens all streams. A stream is one call,
// made of frames: a type byte, a big-endian uint32 length, the payload, of at most MaxChunk bytes but for the request.
//
//	caller -> executor   request (JSON: op and body, at most MaxRequest bytes), first on every stream
//	                     data chunks, end of data; signals (JSON number) and terminal sizes as they happen
//	executor -> caller   stdout, stderr
//	                     result (JSON: status or failure), last on every stream
//
// The first call of a connection is hello: it shows whether both sides speak the same protocol. An answer to a question
// is JSON on stdout. A caller that closes its stream or its connection before the result has gone, and what it asked for
// is ended at once, but for a clean-up. Flow control is yamux's: a reader that does not read stops what writes to it
// after one window (256 KiB), and nothing else.
//
// Both ends are here, so that neither drivers nor executors write them again: Client and ServeConn. The package is a
// leaf: a driver pays for every import here at each of its about twelve starts per job.
package api
