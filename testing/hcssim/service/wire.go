package service

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf16"
)

// A message is a 32-bit length and fields, each a 32-bit length and its bytes; dll/wire.inc is its other end. Strings
// travel as UTF-16, numbers and handles as 8 bytes, GUIDs as Windows lays them out; all little-endian.

// maxMessage bounds a message: a document of a container is some kilobytes.
const maxMessage = 64 << 20

// GUID is a GUID as Windows lays it out in memory.
type GUID [16]byte

// String returns the usual form in lower case, without braces.
func (g GUID) String() string {
	return fmt.Sprintf("%08x-%04x-%04x-%x-%x", binary.LittleEndian.Uint32(g[0:]), binary.LittleEndian.Uint16(g[4:]),
		binary.LittleEndian.Uint16(g[6:]), g[8:10], g[10:])
}

// ParseGUID reads the form of String in either case, with or without braces.
func ParseGUID(text string) (GUID, error) {
	var a, b, c uint64
	var d, e uint64
	text = strings.ToLower(strings.Trim(text, "{}"))
	if n, err := fmt.Sscanf(text, "%08x-%04x-%04x-%04x-%012x", &a, &b, &c, &d, &e); n != 5 || err != nil || len(text) != 36 {
		return GUID{}, fmt.Errorf("%q is no GUID", text)
	}
	var g GUID
	binary.LittleEndian.PutUint32(g[0:], uint32(a))
	binary.LittleEndian.PutUint16(g[4:], uint16(b))
	binary.LittleEndian.PutUint16(g[6:], uint16(c))
	binary.BigEndian.PutUint16(g[8:], uint16(d))
	for i := range 6 {
		g[15-i] = byte(e >> (8 * i))
	}
	return g, nil
}

// ReadMessage reads one message and returns its fields.
func ReadMessage(r io.Reader) ([][]byte, error) {
	var size uint32
	if err := binary.Read(r, binary.LittleEndian, &size); err != nil {
		return nil, err
	}
	if size > maxMessage {
		return nil, fmt.Errorf("a message of %d bytes", size)
	}
	body := make([]byte, size)
	if _, err := io.ReadFull(r, body); err != nil {
		return nil, err
	}
	var fields [][]byte
	for len(body) > 0 {
		if len(body) < 4 {
			return nil, errors.New("half a field")
		}
		n := binary.LittleEndian.Uint32(body)
		if uint64(n) > uint64(len(body)-4) {
			return nil, errors.New("a field beyond its message")
		}
		fields = append(fields, body[4:4+n])
		body = body[4+n:]
	}
	return fields, nil
}

// WriteMessage writes one message. A value is a string (UTF-16), an unsigned integer, a GUID, or bytes as they are.
func WriteMessage(w io.Writer, values ...any) error {
	body := []byte{0, 0, 0, 0}
	for _, field := range Fields(values...) {
		body = binary.LittleEndian.AppendUint32(body, uint32(len(field)))
		body = append(body, field...)
	}
	binary.LittleEndian.PutUint32(body, uint32(len(body)-4))
	_, err := w.Write(body)
	return err
}

// Fields encodes values as the fields of a message.
func Fields(values ...any) [][]byte {
	var fields [][]byte
	for _, value := range values {
		var field []byte
		switch v := value.(type) {
		case string:
			field = EncodeString(v)
		case uint64:
			field = binary.LittleEndian.AppendUint64(nil, v)
		case uint32:
			field = binary.LittleEndian.AppendUint64(nil, uint64(v))
		case int:
			field = binary.LittleEndian.AppendUint64(nil, uint64(v))
		case HRESULT:
			field = binary.LittleEndian.AppendUint64(nil, uint64(v))
		case GUID:
			field = v[:]
		case []byte:
			field = v
		default:
			panic(fmt.Sprintf("hcssim: no encoding for %T", value))
		}
		fields = append(fields, field)
	}
	return fields
}

// EncodeString returns a string in UTF-16.
func EncodeString(text string) []byte {
	var b []byte
	for _, unit := range utf16.Encode([]rune(text)) {
		b = binary.LittleEndian.AppendUint16(b, unit)
	}
	return b
}

// DecodeString is the reverse of EncodeString.
func DecodeString(b []byte) string {
	units := make([]uint16, len(b)/2)
	for i := range units {
		units[i] = binary.LittleEndian.Uint16(b[2*i:])
	}
	return string(utf16.Decode(units))
}

// DecodeNumber reads a number; a missing one is zero.
func DecodeNumber(b []byte) uint64 {
	var number [8]byte
	copy(number[:], b)
	return binary.LittleEndian.Uint64(number[:])
}
