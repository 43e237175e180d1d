package config

import (
	"cmp"
	"fmt"
	"strings"
)

// maxProblems is how many problems one message lists.
const maxProblems = 20

// Error is all that is wrong with a configuration.
type Error struct {
	Path     string
	Problems []Problem // by line and column; never empty
}

// Problem is one thing that is wrong. Line and Column start at 1; the column counts bytes.
type Problem struct {
	Line, Column int
	Key          string // dotted, as in "network.bridge"; empty when the problem is none of a key's
	Message      string
	Remedy       string
}

// Error returns one line per problem, "path:line:column: key: what is wrong; remedy", at most 20.
func (e *Error) Error() string {
	var b strings.Builder
	for i, p := range e.Problems {
		if i > 0 {
			b.WriteByte('\n')
		}
		if i == maxProblems {
			fmt.Fprintf(&b, "%s: and %d more", e.Path, len(e.Problems)-i)
			break
		}
		fmt.Fprintf(&b, "%s:%d:%d: ", e.Path, p.Line, p.Column)
		if p.Key != "" {
			b.WriteString(p.Key + ": ")
		}
		b.WriteString(p.Message + "; " + p.Remedy)
	}
	return b.String()
}

func (e *Error) add(at position, key, message, remedy string) {
	e.Problems = append(e.Problems, Problem{Line: at.line, Column: at.column, Key: key, Message: message, Remedy: remedy})
}

func (p Problem) position() position { return position{p.Line, p.Column} }

type position struct{ line, column int }

func (p position) compare(other position) int {
	return cmp.Or(cmp.Compare(p.line, other.line), cmp.Compare(p.column, other.column))
}

// quote returns a value as messages show it: quoted and not longer than a line can bear.
func quote(s string) string {
	const most = 60
	if len(s) > most {
		return fmt.Sprintf("%q...", s[:most])
	}
	return fmt.Sprintf("%q", s)
}
