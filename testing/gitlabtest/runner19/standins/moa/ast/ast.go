// Package ast stands in for the syntax trees of job inputs' expressions: a tree is one node, which says whether the
// text holds an interpolation.
package ast

// Visitor sees a node before and after what is below it.
type Visitor interface {
	Enter(Expr) (Visitor, error)
	Exit(Expr) (Expr, error)
}

// Expr is a node.
type Expr interface {
	Walk(Visitor) (Expr, error)
}

// Text is a text without interpolations, Template one with them.
type (
	Text     struct{}
	Template struct{}
)

func (t *Text) Walk(v Visitor) (Expr, error)     { return visit(v, t) }
func (t *Template) Walk(v Visitor) (Expr, error) { return visit(v, t) }

func visit(v Visitor, e Expr) (Expr, error) {
	inner, err := v.Enter(e)
	if err != nil {
		return e, err
	}
	return inner.Exit(e)
}
