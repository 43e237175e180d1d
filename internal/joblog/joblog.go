// Package joblog is what Airlock itself says in a job's log: lines of three kinds. It is a leaf.
//
// A caller says a line by its kind. The reader's end chooses the kinds that it shows. Nobody looks at a line's words to
// find out what it is. Each line may quote what authors and registries wrote, and stays one line all the same.
package joblog

import (
	"fmt"
	"io"
	"strings"
	"unicode"
)

// Kinds is a set of kinds of lines.
type Kinds uint8

// The kinds.
const (
	// Notes say what a job got, and why.
	Notes Kinds = 1 << iota
	// Warnings say what an author asked for or has in an image, and does not get.
	Warnings
	// Progress says what happens now and may take long, and that it is done.
	Progress

	allKinds = Notes | Warnings | Progress
)

// Log takes lines for a reader. A nil Log drops them. Several goroutines may use a Log if they may use its writer: a
// line is one Write. A writer that fails is gone, which is no reason to fail: errors are dropped.
type Log struct {
	to    io.Writer
	kinds Kinds
}

// New returns a Log that writes lines of every kind as text.
func New(to io.Writer) *Log { return &Log{to: to, kinds: allKinds} }

// Only returns a Log to the same writer that drops all lines but those of some kinds.
func (l *Log) Only(kinds Kinds) *Log {
	if l == nil {
		return nil
	}
	return &Log{to: l.to, kinds: l.kinds & kinds}
}

// Note says what the job got.
func (l *Log) Note(format string, args ...any) { l.line(Notes, fmt.Sprintf(format, args...)) }

// Warning says what the job does not get. Its text begins with "WARNING: ", which the format does not have.
func (l *Log) Warning(format string, args ...any) {
	l.line(Warnings, "WARNING: "+fmt.Sprintf(format, args...))
}

// Progress says what happens now. A job log keeps every line for ever, so a wait is told at the pace of this package.
func (l *Log) Progress(format string, args ...any) { l.line(Progress, fmt.Sprintf(format, args...)) }

func (l *Log) line(kind Kinds, text string) {
	if l == nil || l.kinds&kind == 0 {
		return
	}
	_, _ = io.WriteString(l.to, oneLine(text)+"\n")
}

// oneLine keeps a text from doing anything but being read: it becomes one line without control characters.
func oneLine(text string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case unicode.IsPrint(r):
			return r
		case unicode.IsSpace(r):
			return ' '
		default:
			return -1
		}
	}, text)
}
