package service

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/require"
)

// FuzzMessage: what a client sends is read or refused, and what is written is read back.
func FuzzMessage(f *testing.F) {
	var message bytes.Buffer
	require.NoError(f, WriteMessage(&message, "ä", uint64(7), NameToGUID("x"), []byte("raw")))
	f.Add(message.Bytes())
	f.Add([]byte{3, 0, 0, 0, 1, 2, 3})
	f.Fuzz(func(t *testing.T, data []byte) {
		fields, err := ReadMessage(bytes.NewReader(data))
		if err != nil {
			return
		}
		var values []any
		for _, field := range fields {
			DecodeString(field)
			DecodeNumber(field)
			values = append(values, field)
		}
		var again bytes.Buffer
		require.NoError(t, WriteMessage(&again, values...))
		require.Equal(t, data[:again.Len()], again.Bytes())
	})
}

// FuzzBackupData: a file in transport form is read or refused, never beyond its end.
func FuzzBackupData(f *testing.F) {
	f.Add([]byte("\x20\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x02\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00hi"))
	f.Add([]byte("\x20\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if got, err := backupData(data); err == nil {
			require.LessOrEqual(t, len(got), len(data))
		}
	})
}

// FuzzDocument: documents and processes are accepted or refused with a reason.
func FuzzDocument(f *testing.F) {
	f.Add(`{"SystemType":"Container","Layers":[{"ID":"a","Path":"b"}],"HvRuntime":{"ImagePath":"x"}}`)
	f.Add(`{"CommandLine":"x","Environment":{"A":"b"},"ConsoleSize":[0,0]}`)
	f.Add(`[{"a":{}}]`)
	f.Fuzz(func(_ *testing.T, text string) {
		parseDocument(text)
		parseProcess(text)
		parseQuery(text)
	})
}
