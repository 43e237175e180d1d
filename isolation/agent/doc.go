// Package agent is the program that runs as PID 1 in every Linux sandbox, and the executor's way to talk to it.
//
// It owns what happens inside a sandbox: which root, user, directory and environment a process gets, its output
// and its end with everything it started. Both Linux runtimes use the same two halves: Connect (any OS, in the
// executor) and Serve (Linux, in cmd/airlock-agent). The executor must never believe the agent: a job may have
// taken it over, so the client bounds every size and every wait, and a lie costs at most the sandbox itself.
//
// # Protocol
//
// The transport is one reliable byte stream with yamux on it; the executor opens all streams. A stream is one
// exchange, made of frames: a type byte, a big-endian uint32 length, the payload.
//
//	executor -> agent   request (JSON, at most maxRequest), first on every stream
//	                    script chunks, as many bytes as the start request announced
//	                    stdin, stdin end
//	agent -> executor   reply (JSON), first on every stream
//	                    stdout, stderr
//	                    exit (status byte, signal byte, 1 if memory ran out), or a second reply with an error; then the stream ends
//
// All payloads but a request's are at most frame.MaxPayload. The operations are hello (version and nonce, echoed),
// setup (once), start, signal, resize and, in guests, usage. Signals have streams of their own, so that neither a process that
// ignores its stdin nor a reader that ignores the output can hold back a kill. A stream that the executor closes
// before the exit frame, or a connection that ends, kills what it started.
//
// Flow control is yamux's: a reader that does not read stops the writer after one window (256 KiB), and with it the
// process, and nothing else.
package agent
