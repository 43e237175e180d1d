package policy

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common"
	"cel.dev/cel-go/common/ast"

	"github.com/airlock-ci/airlock/policy/imagepattern"
)

// maxRules is how many rules a policy may have.
const maxRules = 500

// Policy is a compiled policy. It is immutable and safe for concurrent use.
type Policy struct {
	base   Grant
	rules  []*rule
	table  map[string]FactDefinition
	digest string
	// env is the language of its rules, for lint.
	env *cel.Env
}

// rule is a compiled rule.
type rule struct {
	Rule
	grant   Grant
	reads   []string
	program cel.Program
	tree    *ast.AST
	// widens are the dimensions in which it gives more than the default.
	widens []dimension
	// weakens is true when it gives more than the default in any dimension, and no stronger level: in doubt, it does
	// not match.
	weakens bool
}

// Problem is one thing that is wrong with a policy, or worth a second look.
type Problem struct {
	// Rule is the rule's index, from 0.
	Rule int
	// Key is "name", "when", "isolation" and so on.
	Key string
	// Offset is where in When the problem is, in bytes from 0.
	Offset          int
	Message, Remedy string
}

// Compile checks and compiles a policy. It returns nil and at least one problem when the policy cannot be used.
func Compile(src Source) (*Policy, []Problem) {
	p := &Policy{base: src.Default, table: map[string]FactDefinition{}, digest: digest(src)}
	facts := FactTable()
	for _, fact := range facts {
		p.table[fact.Name] = fact
	}
	env, err := newEnvironment(facts)
	if err != nil {
		return nil, []Problem{{Message: err.Error(), Remedy: "this is a mistake of Airlock's own: report it"}}
	}
	p.env = env
	c := &compiler{policy: p, env: env, guard: newGuard(p.table)}
	for i, r := range src.Rules {
		c.rule(i, r)
	}
	if len(src.Rules) > maxRules {
		c.add(maxRules, "name", 0, fmt.Sprintf("there are %d rules, more than %d", len(src.Rules), maxRules), "join rules with || or in")
	}
	if len(c.problems) > 0 {
		return nil, c.problems
	}
	return p, nil
}

// Digest identifies the policy: "sha256:..." of its default and its rules.
func (p *Policy) Digest() string { return p.digest }

// Reads returns the names of the facts that rule i reads.
func (p *Policy) Reads(i int) []string { return p.rules[i].reads }

// Grants returns all that the policy can grant, the default first.
func (p *Policy) Grants() []Grant {
	grants := []Grant{p.base}
	for _, r := range p.rules {
		if r.Reject == "" {
			grants = append(grants, r.grant)
		}
	}
	return grants
}

type compiler struct {
	policy   *Policy
	env      *cel.Env
	guard    reasoning
	problems []Problem
}

func (c *compiler) add(rule int, key string, offset int, message, remedy string) {
	c.problems = append(c.problems, Problem{rule, key, offset, message, remedy})
}

var namePattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$`)

func (c *compiler) rule(i int, src Rule) {
	if !namePattern.MatchString(src.Name) || src.Name == DefaultRule {
		c.add(i, "name", 0, fmt.Sprintf("%q is not a rule's name", src.Name),
			`write letters, digits, "_", "-" and ".", 64 at most, and not "default"`)
	} else if slices.ContainsFunc(c.policy.rules, func(r *rule) bool { return r.Name == src.Name }) {
		c.add(i, "name", 0, fmt.Sprintf("there is a rule %q already", src.Name), "give each rule a name of its own")
	}
	c.patterns(i, "images", src.Images)
	c.patterns(i, "services", src.Services)
	r := &rule{Rule: src, grant: src.grant(c.policy.base)}
	c.policy.rules = append(c.policy.rules, r)
	if src.Reject == "" {
		r.widens = widened(r.grant, c.policy.base)
		r.weakens = len(r.widens) > 0 && r.grant.Level <= c.policy.base.Level
	}
	if checked := c.check(i, src.When); checked != nil {
		c.plan(i, r, checked)
	}
}

// patterns refuses what allows nothing at all: a list with a mistake in it.
func (c *compiler) patterns(i int, key string, list []string) {
	for _, pattern := range list {
		_, err := imagepattern.Parse(pattern)
		var mistake *imagepattern.Mistake
		if errors.As(err, &mistake) {
			c.add(i, key, 0, fmt.Sprintf("%q %s", pattern, mistake.Wrong), mistake.Remedy)
		}
	}
}

// check parses and types an expression.
func (c *compiler) check(i int, when string) *cel.Ast {
	if strings.TrimSpace(when) == "" {
		c.add(i, "when", 0, "the expression is empty", `write a condition, as in when = "git.protected"`)
		return nil
	}
	checked, issues := c.env.Compile(when)
	if issues.Err() != nil {
		const most = 3
		for _, e := range issues.Errors()[:min(most, len(issues.Errors()))] {
			message, remedy := explain(e.Message)
			c.add(i, "when", beginning(when, offset(when, e.Location)), message, remedy)
		}
		return nil
	}
	if !checked.OutputType().IsExactType(cel.BoolType) {
		c.add(i, "when", 0, "it yields "+cel.FormatCELType(checked.OutputType())+", not true or false", `compare it with something, as in git.ref == "main"`)
		return nil
	}
	return checked
}

var undeclared = regexp.MustCompile(`^undeclared reference to '([^']*)'(?: \(did you mean '([^']*)'\?\))?`)

// explain makes an error of CEL's readable, above all that of a misspelt fact.
func explain(message string) (string, string) {
	message = strings.Join(strings.Fields(message), " ")
	match := undeclared.FindStringSubmatch(message)
	switch {
	case match == nil:
		return message, "correct the expression; docs/policy.md has the facts and examples"
	case match[2] != "":
		return "there is no fact " + match[1], "did you mean " + match[2] + "?"
	default:
		return "there is no fact or function " + match[1], "docs/policy.md has the facts and functions"
	}
}

// plan applies the guard rule and makes the program.
func (c *compiler) plan(i int, r *rule, checked *cel.Ast) {
	r.tree = checked.NativeRep()
	r.reads = reads(r.tree.Expr())
	if len(r.widens) > 0 {
		if found := c.guard.gap(r.tree.Expr(), true); found != nil {
			c.add(i, "when", start(r.When, found.expr, r.tree.SourceInfo()),
				"a job's author alone could satisfy `"+shorten(text(found.expr, r.tree.SourceInfo()))+"` ("+found.why+
					"), and with it this rule, which grants "+c.describe(r),
				"demand a fact that somebody vouches for beside it, as in git.protected && ... or runner.class == \"protected\" && ...")
			return
		}
	}
	var err error
	if r.program, err = program(c.env, checked); err != nil {
		c.add(i, "when", 0, err.Error(), "make it simpler: compare facts with constants, and loop over claimed facts no more than once")
	}
}

// describe says what a rule grants beyond the default.
func (c *compiler) describe(r *rule) string {
	var grants []string
	for _, dimension := range r.widens {
		grants = append(grants, fmt.Sprintf("%s %s instead of %s", dimension.key, shorten(dimension.show(r.grant)), shorten(dimension.show(c.policy.base))))
	}
	return strings.Join(grants, ", ")
}

func shorten(s string) string {
	const most = 120
	s = strings.Join(strings.Fields(s), " ")
	if len(s) > most {
		return strings.ToValidUTF8(s[:most], "") + "..."
	}
	return s
}

// start is where an expression begins, in bytes: CEL places a call at its operator.
func start(when string, e ast.Expr, info *ast.SourceInfo) int {
	first := len(when)
	ast.PreOrderVisit(e, ast.NewExprVisitor(func(e ast.Expr) {
		if at := info.GetStartLocation(e.ID()); at != common.NoLocation && at.Line() > 0 {
			first = min(first, offset(when, at))
		}
	}))
	if first == len(when) {
		return 0
	}
	return beginning(when, first)
}

// beginning goes back to where a name begins: CEL places a qualified name at its dot, a call at its parenthesis.
func beginning(when string, at int) int {
	for at > 0 && at < len(when) && (isNameByte(when[at]) || when[at] == '(') && isNameByte(when[at-1]) {
		at--
	}
	return at
}

func isNameByte(c byte) bool {
	return c == '_' || c == '.' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
}

// offset turns CEL's line (from 1) and column (from 0, in characters) into bytes from the beginning.
func offset(when string, at common.Location) int {
	begin := 0
	for range at.Line() - 1 {
		next := strings.IndexByte(when[begin:], '\n')
		if next < 0 {
			break
		}
		begin += next + 1
	}
	for range at.Column() {
		if begin >= len(when) {
			break
		}
		_, width := utf8.DecodeRuneInString(when[begin:])
		begin += width
	}
	return begin
}
