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

// guarded is a guard of what a peer sent.
func guarded(streams int, frames ...[]byte) *Guard {
	return NewGuard(struct {
		io.Reader
		io.WriteCloser
	}{bytes.NewReader(bytes.Join(frames, nil)), nil}, streams)
}

func TestGuardKeepsAccountOfStreams(t *testing.T) {
	open := func(stream uint32) []byte { return yamuxFrame(yamuxWindowUpdate, yamuxSYN, stream, 0) }
	end := func(stream uint32) []byte { return yamuxFrame(yamuxWindowUpdate, yamuxFIN, stream, 0) }

	_, err := io.ReadAll(guarded(0, open(1)))
	require.ErrorIs(t, err, ErrProtocol, "an agent opens none")
	_, err = io.ReadAll(guarded(2, open(1), open(3), open(5)))
	require.ErrorIs(t, err, ErrProtocol)
	_, err = io.ReadAll(guarded(2, open(1), open(3), end(1), open(5), yamuxFrame(yamuxData, yamuxRST, 5, 0), open(7)))
	require.NoError(t, err)

	g := guarded(2, open(1), open(3), end(3))
	header := make([]byte, yamuxHeader)
	for range 2 {
		_, err := io.ReadFull(g, header)
		require.NoError(t, err)
	}
	first, second := g.Ended(1), g.Ended(3)
	_, err = io.ReadFull(g, header)
	require.NoError(t, err)
	<-second
	<-g.Ended(3)
	<-g.Ended(99)
	select {
	case <-first:
		require.Fail(t, "the first stream is open")
	default:
	}
}

func TestReadLongTakesWhatComesAndNoMore(t *testing.T) {
	var wire bytes.Buffer
	require.NoError(t, Write(&wire, 7, bytes.Repeat([]byte("x"), 100_000)))
	whole := wire.Bytes()
	typ, payload, err := ReadLong(bytes.NewReader(whole), 100_000)
	require.NoError(t, err)
	require.EqualValues(t, 7, typ)
	require.Equal(t, whole[HeaderLength:], payload)
	_, _, err = ReadLong(bytes.NewReader(whole), 99_999)
	require.ErrorIs(t, err, ErrProtocol)
	for _, length := range []int{1, HeaderLength, HeaderLength + 1, len(whole) - 1} {
		_, _, err = ReadLong(bytes.NewReader(whole[:length]), 100_000)
		require.ErrorIs(t, err, io.ErrUnexpectedEOF, length)
	}
	_, _, err = ReadLong(bytes.NewReader(nil), 100_000)
	require.Equal(t, io.EOF, err, "between frames")
}

func FuzzGuard(f *testing.F) {
	f.Add(yamuxFrame(yamuxPing, yamuxACK, 0, 7), 3, false)
	f.Add(append(yamuxFrame(yamuxData, 0, 1, 5), "hello"...), 1, false)
	f.Add(append(yamuxFrame(yamuxData, yamuxSYN, 1, 5), "hello"...), 100, true)
	f.Add([]byte("short"), 2, true)
	f.Fuzz(func(t *testing.T, wire []byte, step int, opens bool) {
		streams := 0
		if opens {
			streams = 3
		}
		g := guarded(streams, wire)
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
		require.LessOrEqual(t, len(g.open), streams)
	})
}
