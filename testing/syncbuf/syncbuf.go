// Package syncbuf is a buffer for what a test watches while it is still being written: a process's output, a log.
package syncbuf

import (
	"bytes"
	"sync"
)

// Buffer is a bytes.Buffer that several goroutines may write and read. The zero value is an empty one.
type Buffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

// Write implements io.Writer.
func (b *Buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

// String returns all that was written so far.
func (b *Buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}
