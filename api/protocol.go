package api

import (
	"encoding/json"

	"github.com/airlock-ci/airlock/internal/frame"
)

// ProtocolVersion is the version of the contract: the frames, the calls, and the control service of package control.
// Version 1 went through the supervisor; executors and callers of the two do not understand each other.
const ProtocolVersion = 2

const (
	// MaxChunk is the largest payload, in bytes, of one frame of data or output.
	MaxChunk = frame.MaxPayload
	// MaxRequest bounds a request, in bytes.
	MaxRequest = 1 << 20
	// MaxScript is the largest script of a stage, in bytes. GitLab Runner's own scripts are tens of kilobytes; the bound
	// protects the executor, which holds a script in memory.
	MaxScript = 64 << 20
	// maxAnswer bounds the answer to a question, in bytes.
	maxAnswer = 64 << 20
)

const (
	frameRequest frame.Type = iota + 1
	frameData
	frameEnd
	frameSignal
	frameResize
	frameStdout
	frameStderr
	frameResult
)

// Op names a call.
type Op string

// The calls that run something. Their bodies are the messages of the same names.
const (
	opHello Op = "hello"

	OpPrepare Op = "prepare"
	OpRun     Op = "run"
	OpCleanup Op = "cleanup"
	OpSandbox Op = "sandbox"
	OpShell   Op = "shell"
	OpPull    Op = "pull"
	OpImport  Op = "import"
	OpEvents  Op = "events"
)

// request opens a stream.
type request struct {
	Op   Op              `json:"op"`
	Body json.RawMessage `json:"body,omitempty"`
}

// hello is the body of the first call on a connection.
type hello struct {
	Protocol uint32 `json:"protocol"`
}

// result ends a stream.
type result struct {
	// Status is that of the script or command, 0 to 255; 128 plus the signal when one ended it.
	Status  int      `json:"status"`
	Failure *failure `json:"failure,omitempty"`
}

// signalRule says what a signal does within a call.
type signalRule int

const (
	signalIgnored   signalRule = iota // a clean-up goes on although its caller loses patience
	signalCancels                     // the call's context
	signalForwarded                   // to what the call runs
)

// rules are what a kind of call accepts beside its request.
type rules struct {
	data   bool
	signal signalRule
}

// rulesOf returns what a call accepts; a question accepts nothing.
func rulesOf(op Op) rules {
	switch op {
	case OpPrepare, OpImport:
		return rules{data: true, signal: signalCancels}
	case OpRun, OpSandbox, OpShell:
		return rules{data: true, signal: signalForwarded}
	case OpPull:
		return rules{signal: signalCancels}
	default:
		return rules{}
	}
}
