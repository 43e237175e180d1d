// Package api is the contract between Airlock's processes: the messages that the driver, the host and the
// executor exchange. The same messages travel over two transports: ttrpc between driver and host
// (executor/api/hostpb), gRPC between host and executor plugin (executor/api/executorpb).
//
// It is a leaf: it imports nothing of Airlock but fault. The driver pays for every import here at each of
// its about twelve starts per job, so nothing heavy belongs in it.
package api

// ProtocolVersion is the version of the executor contract (messages and their meaning). The host asks for it
// by the Version call before any other and refuses an executor that speaks another one.
const ProtocolVersion = 1

// MaxChunk is the largest payload, in bytes, of one data frame (stdin, stdout, stderr, script, job response).
// It stays far below ttrpc's limit of 4 MiB a message so that a slow reader holds little memory.
const MaxChunk = 64 << 10

// Window is how many bytes of a resumable call's frames, counted by FrameCost, the executor sends ahead of the
// driver's acknowledgements. A driver acknowledges more often than that: at least every quarter of it.
const Window = 8 * MaxChunk

// FrameCost is what a frame counts while it waits or is kept, in bytes: its payload, and something for itself, so
// that empty ones count too.
func FrameCost(f *ServerFrame) int { return len(f.GetStdout()) + len(f.GetStderr()) + frameOverhead }

const frameOverhead = 128
