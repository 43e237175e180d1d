// Package expression stands in for the evaluator of job inputs. It knows one expression, ${{ job.inputs.NAME }}, and
// refuses every other.
package expression

import (
	"fmt"
	"regexp"
	"strings"

	"gitlab.com/gitlab-org/moa"
	"gitlab.com/gitlab-org/moa/ast"
	"gitlab.com/gitlab-org/moa/value"
)

// Sensitive marks a value that may not be shown.
const Sensitive uint16 = 1

// Input is a job input.
type Input struct {
	Key   string
	Value value.Value
}

// Evaluator replaces interpolations by the values of a job's inputs.
type Evaluator struct{ inputs value.Value }

// NewEvaluator returns the evaluator for inputs, an object.
func NewEvaluator(inputs value.Value) (*Evaluator, error) { return &Evaluator{inputs}, nil }

var interpolation = regexp.MustCompile(`\$\{\{\s*job\.inputs\.([A-Za-z0-9_-]+)\s*\}\}`)

// Eval returns a text with its interpolations replaced; it has the marks of all values in it.
func (e *Evaluator) Eval(text string, _ ast.Expr) (value.Value, error) {
	var out strings.Builder
	var marks uint16
	rest := text
	for rest != "" {
		at := strings.Index(rest, moa.Open)
		if at < 0 {
			break
		}
		found := interpolation.FindStringSubmatchIndex(rest[at:])
		if found == nil || found[0] != 0 {
			return value.Null(), fmt.Errorf("only ${{ job.inputs.NAME }} is part of this build, not %.40q", rest[at:])
		}
		name := rest[at+found[2] : at+found[3]]
		input, err := e.inputs.Attr(name)
		if err != nil {
			return value.Null(), fmt.Errorf("job.inputs.%s: %w", name, err)
		}
		if input.HasMarks(Sensitive) {
			marks |= Sensitive
		}
		out.WriteString(rest[:at] + input.String())
		rest = rest[at+found[1]:]
	}
	out.WriteString(rest)
	return value.String(out.String()).WithMarks(marks), nil
}
