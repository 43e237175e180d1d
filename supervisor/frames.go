package supervisor

import (
	"encoding/binary"
	"errors"

	"github.com/containerd/ttrpc"
	"google.golang.org/protobuf/proto"
)

// ttrpc's framing (its PROTOCOL.md): a header of 10 bytes - length, stream id, type, flags - then the payload.
const (
	frameHeader  = 10
	frameRequest = 1
	frameData    = 3
	// maxRequest bounds the frame that opens a stream or carries a request without a stream.
	maxRequest = 1 << 20
	// maxStreams bounds the calls that one connection may make in its life; a driver makes two.
	maxStreams = 10000
)

var errBadFrame = errors.New("a frame that no caller of ours sends")

// frameCheck follows the frames of a connection and refuses data for anything but a Call: ttrpc v1.2.10 takes
// a data frame for a method without a stream as a reason to dereference nil, which would end the host.
type frameCheck struct {
	header  [frameHeader]byte
	have    int    // bytes of the header
	left    uint32 // bytes of the payload
	request []byte // a request's payload so far
	calls   map[uint32]bool
	streams int
}

// check follows the next bytes of the connection.
func (f *frameCheck) check(p []byte) error {
	for len(p) > 0 {
		if f.have < frameHeader {
			n := copy(f.header[f.have:], p)
			f.have += n
			p = p[n:]
			if f.have < frameHeader {
				return nil
			}
			if err := f.begin(); err != nil {
				return err
			}
		}
		n := min(uint32(len(p)), f.left)
		if f.kind() == frameRequest {
			f.request = append(f.request, p[:n]...)
		}
		f.left -= n
		p = p[n:]
		if f.left == 0 {
			if err := f.end(); err != nil {
				return err
			}
		}
	}
	return nil
}

func (f *frameCheck) kind() byte     { return f.header[8] }
func (f *frameCheck) stream() uint32 { return binary.BigEndian.Uint32(f.header[4:8]) }

// begin looks at a complete header.
func (f *frameCheck) begin() error {
	f.left = binary.BigEndian.Uint32(f.header[:4])
	switch {
	case f.kind() == frameRequest && f.left <= maxRequest:
	case f.kind() == frameData && f.calls[f.stream()]:
	default:
		return errBadFrame
	}
	if f.left == 0 {
		return f.end()
	}
	return nil
}

// end looks at a complete frame and makes ready for the next.
func (f *frameCheck) end() error {
	f.have = 0
	if f.kind() != frameRequest {
		return nil
	}
	var request ttrpc.Request
	if err := proto.Unmarshal(f.request, &request); err != nil {
		return errBadFrame
	}
	f.request = nil
	if f.streams++; f.streams > maxStreams {
		return errBadFrame
	}
	if request.GetMethod() == "Call" {
		if f.calls == nil {
			f.calls = map[uint32]bool{}
		}
		f.calls[f.stream()] = true
	}
	return nil
}
