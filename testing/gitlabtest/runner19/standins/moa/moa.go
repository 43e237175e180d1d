// Package moa stands in for the expression language of job inputs. It tells texts with interpolations (${{ ... }})
// from those without; package expression of the stand-in for step-runner evaluates the one form there is,
// ${{ job.inputs.NAME }}.
package moa

import (
	"strings"

	"gitlab.com/gitlab-org/moa/ast"
)

// Open begins an interpolation.
const Open = "${{"

// ParseTemplate reports whether a text holds an interpolation. It never fails: the evaluator refuses what it does not know.
func ParseTemplate(text string) (ast.Expr, error) {
	if strings.Contains(text, Open) {
		return &ast.Template{}, nil
	}
	return &ast.Text{}, nil
}

// EscapeTemplate returns a text that stands for itself.
func EscapeTemplate(text string) string { return strings.ReplaceAll(text, Open, "$"+Open) }
