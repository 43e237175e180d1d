package agent

import (
	"encoding/json"
	"fmt"

	"github.com/airlock-ci/airlock/internal/frame"
)

// Version is the protocol's version. Agent and executor must have the same: they are released together, and
// the executor itself puts its agent into the sandbox.
const Version = 1

const (
	// maxRequest bounds a request, in bytes. Linux accepts 2 MiB of arguments and environment in all
	// (a quarter of the 8 MiB stack, execve(2)); JSON needs some more.
	maxRequest = 4 << 20
	// MaxScript bounds a script, in bytes.
	MaxScript = 64 << 20
)

const (
	frameRequest frame.Type = iota + 1
	frameScript
	frameStdin
	frameStdinEnd
	frameReply
	frameStdout
	frameStderr
	frameExit
	frameRelay // of a warm-up; an empty one is its end
)

type operation string

const (
	opHello  operation = "hello"
	opSetup  operation = "setup"
	opStart  operation = "start"
	opSignal operation = "signal"
	opResize operation = "resize"
	opUsage  operation = "usage" // of guests only
)

// request is the executor's opening of a stream. Exactly the field of its operation is set.
type request struct {
	Op     operation      `json:"op"`
	Hello  *greeting      `json:"hello,omitempty"`
	Setup  *setupRequest  `json:"setup,omitempty"`
	Start  *startRequest  `json:"start,omitempty"`
	Signal *signalRequest `json:"signal,omitempty"`
	Resize *resizeRequest `json:"resize,omitempty"`
}

// greeting goes both ways: the agent returns its own version and the nonce it was sent.
type greeting struct {
	Version int    `json:"version"`
	Nonce   string `json:"nonce"`
}

type setupRequest struct {
	// User is the image's USER, resolved in the image's root.
	User string `json:"user"`
	// Helper says that a helper root is attached at isolation.HelperPath.
	Helper bool `json:"helper"`
	// Scripts says that both roots must have a shell. Path and HelperPath are where it is looked for first: the PATH of
	// their images.
	Scripts    bool   `json:"scripts,omitempty"`
	Path       string `json:"path,omitempty"`
	HelperPath string `json:"helper_path,omitempty"`
}

// startRequest is a ProcessSpec after it was merged with the ImageConfig of its root.
type startRequest struct {
	// ID names the process in later requests; the executor never uses one twice.
	ID     uint64 `json:"id"`
	Helper bool   `json:"helper"`
	// Runners says that it is one of the runner's own stages, in whichever root.
	Runners bool `json:"runners,omitempty"`
	// Script is its length in bytes, or -1 for none.
	Script int64    `json:"script"`
	Args   []string `json:"args,omitempty"`
	// Env is complete but for HOME, which the agent adds from the user's passwd entry unless it is there.
	Env []string `json:"env"`
	// Dirs are the working directories to try, in order.
	Dirs []string `json:"dirs"`
	// User is empty for the user of the setup.
	User        string `json:"user,omitempty"`
	Interactive bool   `json:"interactive,omitempty"`
	Stdin       bool   `json:"stdin,omitempty"`
	TTY         bool   `json:"tty,omitempty"`
	Rows        uint16 `json:"rows,omitempty"`
	Columns     uint16 `json:"columns,omitempty"`
}

type signalRequest struct {
	ID     uint64 `json:"id"`
	Signal int    `json:"signal"`
}

type resizeRequest struct {
	ID      uint64 `json:"id"`
	Rows    uint16 `json:"rows"`
	Columns uint16 `json:"columns"`
}

// reply is the agent's answer.
type reply struct {
	Hello *greeting  `json:"hello,omitempty"`
	Usage *Usage     `json:"usage,omitempty"`
	Error *wireError `json:"error,omitempty"`
}

// wireError is a classified error. Author says that the job is at fault, Helper that the helper image is, which is the
// administrator's; everything else is the system's.
type wireError struct {
	Author  bool   `json:"author,omitempty"`
	Helper  bool   `json:"helper,omitempty"`
	Message string `json:"message"`
	Remedy  string `json:"remedy,omitempty"`
}

func parseRequest(payload []byte) (request, error) {
	var req request
	if err := json.Unmarshal(payload, &req); err != nil {
		return request{}, fmt.Errorf("%w: a request that cannot be read: %w", frame.ErrProtocol, err)
	}
	return req, nil
}
