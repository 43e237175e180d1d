package executor

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"sync"
	"time"
)

// EventLog keeps the executor's latest log lines in memory for `airlock logs` and copies them to a writer,
// ordinarily the stderr that go-plugin drains. It never blocks who logs: a reader that is slow, stuck or gone
// loses lines, the executor loses nothing. It is an io.Writer for zerolog, one JSON object a call.
type EventLog struct {
	maxLines, maxBytes int

	mu      sync.Mutex
	lines   [][]byte // the kept ones, oldest first
	first   uint64   // number of lines[0]
	bytes   int
	changed chan struct{} // closed and replaced with each new line

	tee     chan []byte
	teeDone chan struct{}
	close   sync.Once
}

// teeQueue is how many lines may wait for the tee.
const teeQueue = 1024

// NewEventLog keeps at most maxLines lines and maxBytes bytes. tee may be nil. Close ends the copying.
func NewEventLog(maxLines, maxBytes int, tee io.Writer) *EventLog {
	l := &EventLog{
		maxLines: maxLines, maxBytes: maxBytes, changed: make(chan struct{}),
		tee: make(chan []byte, teeQueue), teeDone: make(chan struct{}),
	}
	go l.copyTo(tee, l.tee)
	return l
}

// copyTo writes to the tee until its first error: then its reader is gone for good.
func (l *EventLog) copyTo(w io.Writer, lines <-chan []byte) {
	defer close(l.teeDone)
	for line := range lines {
		if w == nil {
			continue
		}
		if _, err := w.Write(line); err != nil {
			w = nil
		}
	}
}

// Write keeps one line. It never fails.
func (l *EventLog) Write(p []byte) (int, error) {
	line := bytes.Clone(p)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, line)
	l.bytes += len(line)
	for len(l.lines) > l.maxLines || (l.bytes > l.maxBytes && len(l.lines) > 1) {
		l.bytes -= len(l.lines[0])
		l.lines[0] = nil
		l.lines = l.lines[1:]
		l.first++
	}
	close(l.changed)
	l.changed = make(chan struct{})
	if l.tee != nil {
		select {
		case l.tee <- line:
		default: // nobody drains it
		}
	}
	return len(p), nil
}

// Close waits up to a second for the tee to take what is queued; later lines are kept but not copied.
func (l *EventLog) Close() {
	l.close.Do(func() {
		l.mu.Lock()
		close(l.tee)
		l.tee = nil
		l.mu.Unlock()
		select {
		case <-l.teeDone:
		case <-time.After(time.Second):
		}
	})
}

// Events implements Backend.Events on the kept lines. job selects the lines whose "job_id" or "sandbox" field
// it equals; empty selects all. A follower that is too slow misses lines and is told how many.
func (l *EventLog) Events(ctx context.Context, job string, follow bool, emit func(json []byte) error) error {
	next := uint64(0)
	for {
		lines, missed, changed := l.since(next)
		if missed > 0 && next > 0 {
			note := fmt.Sprintf(`{"level":"warn","message":"%d log lines were dropped: the reader is too slow"}`, missed)
			if err := emit([]byte(note)); err != nil {
				return err
			}
		}
		next += missed + uint64(len(lines))
		for _, line := range lines {
			if !concerns(line, job) {
				continue
			}
			if err := emit(bytes.TrimRight(line, "\n")); err != nil {
				return err
			}
		}
		if !follow {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil
		}
	}
}

// since returns the kept lines from number next on, how many before them are lost, and a channel that is
// closed when there are more.
func (l *EventLog) since(next uint64) (lines [][]byte, missed uint64, changed <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if next < l.first {
		missed = l.first - next
		next = l.first
	}
	lines = append(lines, l.lines[next-l.first:]...)
	return lines, missed, l.changed
}

// concerns reports whether a line is about a job id or sandbox id.
func concerns(line []byte, job string) bool {
	if job == "" {
		return true
	}
	var fields struct {
		JobID   json.RawMessage `json:"job_id"`
		Sandbox string          `json:"sandbox"`
	}
	if err := json.Unmarshal(line, &fields); err != nil {
		return false
	}
	return fields.Sandbox == job || string(bytes.Trim(fields.JobID, `"`)) == job
}
