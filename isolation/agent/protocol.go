package agent

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"time"

	"github.com/hashicorp/yamux"
)

// Version is the protocol's version. Agent and executor must have the same: they are released together, and
// the executor itself puts its agent into the sandbox.
const Version = 1

const (
	// maxPayload bounds every frame except requests, in bytes.
	maxPayload = 64 << 10
	// maxRequest bounds a request, in bytes. Linux accepts 2 MiB of arguments and environment in all
	// (a quarter of the 8 MiB stack, execve(2)); JSON needs some more.
	maxRequest = 4 << 20
	// MaxScript bounds a script, in bytes.
	MaxScript = 64 << 20
	// frameHeader is the length of a frame's header, in bytes.
	frameHeader = 5
	// window is what one stream may have in flight, in bytes: yamux's smallest.
	window = 256 << 10
)

type frameType byte

const (
	frameRequest frameType = iota + 1
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

// errProtocol says that the other side broke the protocol.
var errProtocol = errors.New("protocol violation")

func parseRequest(payload []byte) (request, error) {
	var req request
	if err := json.Unmarshal(payload, &req); err != nil {
		return request{}, fmt.Errorf("%w: a request that cannot be read: %w", errProtocol, err)
	}
	return req, nil
}

// readFrame reads one frame into buf and returns the part of it that holds the payload. A payload longer than buf
// is a protocol violation; nothing is ever allocated by a claimed length. It returns io.EOF only between frames.
func readFrame(r io.Reader, buf []byte) (frameType, []byte, error) {
	var header [frameHeader]byte
	if _, err := io.ReadFull(r, header[:]); err != nil {
		return 0, nil, err
	}
	typ, length := frameType(header[0]), binary.BigEndian.Uint32(header[1:])
	if uint64(length) > uint64(len(buf)) {
		return 0, nil, fmt.Errorf("%w: a frame of type %d claims %d bytes, at most %d are allowed", errProtocol, typ, length, len(buf))
	}
	payload := buf[:length]
	if _, err := io.ReadFull(r, payload); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return 0, nil, err
	}
	return typ, payload, nil
}

// putHeader writes a frame's header in front of the length payload bytes that follow it in buf, and returns the
// frame. One Write per frame keeps frames whole: a yamux stream lets no other Write in between.
func putHeader(buf []byte, typ frameType, length int) []byte {
	buf[0] = byte(typ)
	binary.BigEndian.PutUint32(buf[1:frameHeader], uint32(length))
	return buf[:frameHeader+length]
}

// writeFrame writes one frame.
func writeFrame(w io.Writer, typ frameType, payload []byte) error {
	frame := make([]byte, frameHeader+len(payload))
	copy(frame[frameHeader:], payload)
	_, err := w.Write(putHeader(frame, typ, len(payload)))
	return err
}

// writeJSON writes one frame with v as its payload.
func writeJSON(w io.Writer, typ frameType, v any) error {
	payload, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encoding a frame: %w", err)
	}
	return writeFrame(w, typ, payload)
}

// yamuxConfig returns what both sides use. Keep-alives are off: the transport is a socket pair or a virtual serial
// port, which end with their owner, while a keep-alive would end the jobs of a host that was merely suspended.
// Yamux's own log would go to stderr; all it knows comes back as errors, too.
func yamuxConfig(writeTimeout time.Duration) *yamux.Config {
	return &yamux.Config{
		AcceptBacklog:          64,
		EnableKeepAlive:        false,
		KeepAliveInterval:      time.Hour, // must not be zero
		ConnectionWriteTimeout: writeTimeout,
		MaxStreamWindowSize:    window,
		StreamOpenTimeout:      startTimeout,
		StreamCloseTimeout:     startTimeout,
		Logger:                 silent{},
	}
}

// patient is the write timeout of the agent: an executor that is stopped for a while must find every byte of
// output when it goes on, and a dead one ends the connection.
const patient = time.Duration(math.MaxInt64)

// silent is a yamux.Logger.
type silent struct{}

func (silent) Print(...any)          {}
func (silent) Printf(string, ...any) {}
func (silent) Println(...any)        {}
