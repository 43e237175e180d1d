// Package audit keeps the decisions of the policy in a file: a JSON object a line, appended, never changed. When the
// file has grown to its bound it is set aside under a number, and the oldest of those goes.
//
// It owns the file and nothing else; package jobs writes entries and sees to it that none holds a secret. What is
// written survives the executor's death, not necessarily the host's: an entry is not synced to the disk.
package audit

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/airlock-ci/airlock/jobs"
)

// Options say where the log is and how much of it is kept.
type Options struct {
	// Path is the file's; those set aside are beside it, "decisions.1.jsonl" being the youngest.
	Path string
	// MaxBytes bounds one file (default 16 MiB), Keep is how many are set aside (default 9).
	MaxBytes int64
	Keep     int
}

// Log is an open audit log. It is safe for concurrent use; only one process may write to it.
type Log struct {
	opts Options

	mu   sync.Mutex
	file *os.File
	size int64
}

var _ jobs.Audit = (*Log)(nil)

// Open opens the log for appending, and makes it and its directory when they are missing.
func Open(o Options) (*Log, error) {
	if o.MaxBytes == 0 {
		o.MaxBytes = 16 << 20
	}
	if o.Keep == 0 {
		o.Keep = 9
	}
	if err := os.MkdirAll(filepath.Dir(o.Path), 0o750); err != nil {
		return nil, fmt.Errorf("opening the audit log: %w", err)
	}
	l := &Log{opts: o}
	if err := l.open(); err != nil {
		return nil, fmt.Errorf("opening the audit log: %w", err)
	}
	return l, nil
}

// open opens the file. What a crash or a full disk left of a last line is ended, so that the next one is whole.
func (l *Log) open() error {
	file, err := os.OpenFile(l.opts.Path, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o640)
	if err != nil {
		return err
	}
	size, err := file.Seek(0, io.SeekEnd)
	if err == nil && size > 0 {
		var last [1]byte
		if _, err = file.ReadAt(last[:], size-1); err == nil && last[0] != '\n' {
			_, err = file.WriteString("\n")
			size++
		}
	}
	if err != nil {
		_ = file.Close()
		return err
	}
	l.file, l.size = file, size
	return nil
}

// Record appends an entry.
func (l *Log) Record(entry jobs.AuditEntry) error {
	line, err := json.Marshal(entry)
	if err != nil {
		return err
	}
	line = append(line, '\n')
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file == nil {
		if err := l.open(); err != nil {
			return err
		}
	}
	if l.size > 0 && l.size+int64(len(line)) > l.opts.MaxBytes {
		if err := l.rotate(); err != nil {
			return fmt.Errorf("setting the full audit log aside: %w", err)
		}
	}
	n, err := l.file.Write(line)
	l.size += int64(n)
	if err != nil && n > 0 {
		_ = l.close() // opened again, what there is of the line is ended
	}
	return err
}

// rotate sets the file aside, the older ones one number further, and begins a new one.
func (l *Log) rotate() error {
	if err := l.close(); err != nil {
		return err
	}
	for n := l.opts.Keep; n >= 1; n-- {
		from := l.aside(n - 1)
		if err := os.Rename(from, l.aside(n)); err != nil && !os.IsNotExist(err) {
			return err
		}
	}
	return l.open()
}

// aside is the name of the n-th file set aside; the 0th is the living one.
func (l *Log) aside(n int) string {
	if n == 0 {
		return l.opts.Path
	}
	extension := filepath.Ext(l.opts.Path)
	return fmt.Sprintf("%s.%d%s", strings.TrimSuffix(l.opts.Path, extension), n, extension)
}

func (l *Log) close() error {
	if l.file == nil {
		return nil
	}
	err := l.file.Close()
	l.file, l.size = nil, 0
	return err
}

// Close closes the file.
func (l *Log) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.close()
}
