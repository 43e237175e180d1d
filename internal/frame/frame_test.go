package frame

import (
	"bytes"
	"encoding/binary"
	"io"
	"testing"

	"github.com/stretchr/testify/require"
)

// yamuxFrame is a header as it goes over the wire.
func yamuxFrame(typ byte, flags uint16, stream, length uint32) []byte {
	header := make([]byte, yamuxHeader)
	header[1] = typ
	binary.BigEndian.PutUint16(header[2:], flags)
	binary.BigEndian.PutUint32(header[4:], stream)
	binary.BigEndian.PutUint32(header[8:], length)
	return header
}

func FuzzGuard(f *testing.F) {
	f.Add(yamuxFrame(yamuxPing, yamuxACK, 0, 7), 3, false)
	f.Add(append(yamuxFrame(yamuxData, 0, 1, 5), "hello"...), 1, false)
	f.Add(append(yamuxFrame(yamuxData, yamuxSYN, 1, 5), "hello"...), 100, true)
	f.Add([]byte("short"), 2, true)
	f.Fuzz(func(t *testing.T, wire []byte, step int, opens bool) {
		g := NewGuard(struct {
			io.Reader
			io.WriteCloser
		}{bytes.NewReader(wire), nil}, opens)
		buf := make([]byte, min(max(step, 1), 1<<16))
		var passed []byte
		for {
			n, err := g.Read(buf)
			passed = append(passed, buf[:n]...)
			if err != nil {
				break
			}
			require.NotZero(t, n)
		}
		// What passes is a prefix of what came, and every frame that begins in it is harmless.
		require.True(t, bytes.HasPrefix(wire, passed))
		for len(passed) >= yamuxHeader {
			length, err := g.check(passed[:yamuxHeader])
			require.NoError(t, err)
			passed = passed[min(length, int64(len(passed))):]
		}
	})
}
