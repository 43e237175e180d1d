// Package frame is how Airlock's processes talk: small frames over yamux streams, between drivers or administrators and
// the executor, and between the executor and the agent of a sandbox.
//
// A frame is a type byte, a big-endian uint32 length, and so many bytes of payload. What the types mean is said by the
// packages that own the two protocols, api and isolation/agent. Neither end of either is believed: nothing is allocated
// by a claimed length, and a Guard checks yamux's own frames before yamux sees them. The package knows no message.
package frame

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"time"

	"github.com/hashicorp/yamux"
)

const (
	// HeaderLength is the length of a frame's header, in bytes.
	HeaderLength = 5
	// MaxPayload bounds the payload of every frame but those that a protocol names, in bytes.
	MaxPayload = 64 << 10
	// Window is what one stream may have in flight, in bytes: yamux's smallest.
	Window = 256 << 10
)

// Type says what a frame's payload is.
type Type byte

// ErrProtocol says that the other side broke the protocol.
var ErrProtocol = errors.New("protocol violation")

// Read reads one frame into buf and returns the part of it that holds the payload. A payload longer than buf is a
// protocol violation; nothing is ever allocated by a claimed length. It returns io.EOF only between frames.
func Read(r io.Reader, buf []byte) (Type, []byte, error) {
	typ, length, err := readHeader(r, len(buf))
	if err != nil {
		return 0, nil, err
	}
	payload := buf[:length]
	if _, err := io.ReadFull(r, payload); err != nil {
		return 0, nil, unexpected(err)
	}
	return typ, payload, nil
}

// ReadLong reads one frame of at most limit bytes into memory that grows as they come: for a frame that may be long and
// seldom is.
func ReadLong(r io.Reader, limit int) (Type, []byte, error) {
	typ, length, err := readHeader(r, limit)
	if err != nil {
		return 0, nil, err
	}
	var payload bytes.Buffer
	if _, err := io.CopyN(&payload, r, int64(length)); err != nil {
		return 0, nil, unexpected(err)
	}
	return typ, payload.Bytes(), nil
}

func readHeader(r io.Reader, limit int) (Type, uint32, error) {
	var header [HeaderLength]byte
	if _, err := io.ReadFull(r, header[:]); err != nil {
		return 0, 0, err
	}
	typ, length := Type(header[0]), binary.BigEndian.Uint32(header[1:])
	if uint64(length) > uint64(limit) {
		return 0, 0, fmt.Errorf("%w: a frame of type %d claims %d bytes, at most %d are allowed", ErrProtocol, typ, length, limit)
	}
	return typ, length, nil
}

// unexpected makes of the end of a stream one within a frame.
func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// Put writes a frame's header in front of the length payload bytes that follow it in buf, and returns the frame. One
// Write per frame keeps frames whole: a yamux stream lets no other Write in between.
func Put(buf []byte, typ Type, length int) []byte {
	buf[0] = byte(typ)
	binary.BigEndian.PutUint32(buf[1:HeaderLength], uint32(length))
	return buf[:HeaderLength+length]
}

// Write writes one frame.
func Write(w io.Writer, typ Type, payload []byte) error {
	frame := make([]byte, HeaderLength+len(payload))
	copy(frame[HeaderLength:], payload)
	_, err := w.Write(Put(frame, typ, len(payload)))
	return err
}

// WriteJSON writes one frame with v as its payload.
func WriteJSON(w io.Writer, typ Type, v any) error {
	payload, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encoding a frame: %w", err)
	}
	return Write(w, typ, payload)
}

// Patient is the write timeout of a side that waits for its peer as long as the connection lives: a peer that is stopped
// for a while finds every byte when it goes on, and a dead one ends the connection.
const Patient = time.Duration(math.MaxInt64)

// Config returns yamux's settings for both sides. open bounds the wait for a peer to take note of a new stream, and of a
// closed one. Keep-alives are off: the transports end with their owner, while a keep-alive would end the jobs of a
// machine that was merely suspended. Yamux's own log would go to stderr; all it knows comes back as errors, too.
func Config(write, open time.Duration) *yamux.Config {
	return &yamux.Config{
		AcceptBacklog:          64,
		EnableKeepAlive:        false,
		KeepAliveInterval:      time.Hour, // must not be zero
		ConnectionWriteTimeout: write,
		MaxStreamWindowSize:    Window,
		StreamOpenTimeout:      open,
		StreamCloseTimeout:     open,
		Logger:                 silent{},
	}
}

// silent is a yamux.Logger.
type silent struct{}

func (silent) Print(...any)          {}
func (silent) Printf(string, ...any) {}
func (silent) Println(...any)        {}
