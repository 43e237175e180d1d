package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v3"

	"github.com/airlock-ci/airlock/config"
	"github.com/airlock-ci/airlock/config/policytest"
	"github.com/airlock-ci/airlock/gitlab"
	"github.com/airlock-ci/airlock/internal/bytesize"
	"github.com/airlock-ci/airlock/internal/fault"
	"github.com/airlock-ci/airlock/policy"
	"github.com/airlock-ci/airlock/policy/idtoken"
)

func policyCommand() *cli.Command {
	return &cli.Command{
		Name:            "policy",
		Usage:           "check, explain or test the rules that choose a job's isolation",
		HideHelpCommand: true,
		Commands: []*cli.Command{
			{
				Name:      "check",
				Usage:     "check a configuration's policy and look twice at what is valid",
				ArgsUsage: "[FILE]",
				Description: "Names every mistake with its line and column, in the middle of an expression too. Warnings are about rules that\n" +
					"cannot matter, and about trust that rests on less than it seems to. Default: " + config.DefaultPath,
				Flags:  []cli.Flag{&cli.BoolFlag{Name: "strict", Usage: "end with status 1 when there are warnings"}},
				Action: checkPolicy,
			},
			{
				Name:  "explain",
				Usage: "show how a job is decided: every rule, the facts it reads and who vouches for them",
				Description: "FILE is a saved JOB_RESPONSE_FILE of GitLab Runner's; - is the standard input. It holds the job's secrets:\n" +
					"nothing of them is shown. An id token in it is verified as the service does it.",
				Flags: []cli.Flag{
					configFlag(),
					&cli.StringFlag{Name: "job", Usage: "the job response `FILE`", Required: true},
					&cli.StringFlag{Name: "runner-class", Usage: "the runner's `CLASS`, as in prepare_args"},
					jsonFlag(),
				},
				Action: explainPolicy,
			},
			{
				Name:      "test",
				Usage:     "compare decisions with what a file of tests expects",
				ArgsUsage: "FILE...",
				Description: "For your own CI: ends with status 1 when a test fails. docs/policy.md has the form of the files, and\n" +
					"docs/policies examples.",
				Flags:  []cli.Flag{configFlag(), jsonFlag()},
				Action: testPolicy,
			},
		},
	}
}

func checkPolicy(ctx context.Context, c *cli.Command) error {
	path, cfg, err := loadArgument(ctx, c)
	if err != nil {
		return err
	}
	out := c.Root().Writer
	if config.Absent(path) {
		_, err := fmt.Fprintf(out, "%s; there is no policy: every job gets %s isolation\n", noFile(path), cfg.Isolation)
		return err
	}
	if cfg.Policy == nil {
		_, err := fmt.Fprintf(out, "%s has no [policy]: every job gets %s isolation\n", printable(path), cfg.Isolation)
		return err
	}
	if token := cfg.Policy.IDToken; token != nil {
		if _, err := newVerifier(token); err != nil {
			return err
		}
	}
	warnings := &config.Error{Path: path, Problems: cfg.Policy.Warnings}
	if len(warnings.Problems) > 0 {
		for line := range strings.Lines(warnings.Error()) {
			if _, err := fmt.Fprintf(out, "warning: %s\n", printable(strings.TrimSpace(line))); err != nil {
				return err
			}
		}
	}
	if _, err := fmt.Fprintf(out, "the policy of %s is valid: %s\n", printable(path), cfg.Policy.Digest()); err != nil {
		return err
	}
	if n := len(warnings.Problems); n > 0 && c.Bool("strict") {
		return fault.Adminf("there are %d warnings", n)
	}
	return nil
}

// loadPolicy returns the configuration's policy; without [policy] one that has no rules.
func loadPolicy(c *cli.Command) (*policy.Policy, *config.IDToken, error) {
	_, cfg, err := loadConfig(c)
	if err != nil {
		return nil, nil, err
	}
	if cfg.Policy != nil {
		return cfg.Policy.Policy, cfg.Policy.IDToken, nil
	}
	p, problems := policy.Compile(policy.Source{Default: cfg.DefaultGrant()})
	if p == nil {
		return nil, nil, fault.Systemf("a policy without rules does not compile: %s", problems[0].Message)
	}
	return p, nil, nil
}

func explainPolicy(ctx context.Context, c *cli.Command) error {
	if _, err := arguments(ctx, c, 0, 0); err != nil {
		return err
	}
	p, token, err := loadPolicy(c)
	if err != nil {
		return err
	}
	facts, err := readFacts(ctx, c, token)
	if err != nil {
		return err
	}
	_, cfg, err := loadConfig(c)
	if err != nil {
		return err
	}
	e := p.Explain(facts)
	e.Notes = append(e.Notes, whoHasClass(cfg, facts.RunnerClass)...)
	if c.Bool("json") {
		return printJSON(c.Root().Writer, e)
	}
	return printExplanation(c.Root().Writer, e)
}

// whoHasClass says who can have a runner class; nothing if none is asked for.
func whoHasClass(cfg *config.Config, class string) []string {
	if class == "" {
		return nil
	}
	for _, s := range cfg.Sockets {
		if s.RunnerClass == class {
			return []string{fmt.Sprintf("the runner class %q is that of the callers on %s, who are root or in the group %q, and of nobody else", class, s.Path, s.Group)}
		}
	}
	who := "root"
	if cfg.Group != "" {
		who = fmt.Sprintf("root and every member of the group %q", cfg.Group)
	}
	return []string{fmt.Sprintf("%s can say that a job has the runner class %q; [[sockets]] would bind it to a socket of its own", who, class)}
}

// readFacts reads a job response and verifies the id token in it.
func readFacts(ctx context.Context, c *cli.Command, token *config.IDToken) (policy.Facts, error) {
	facts := policy.Facts{RunnerClass: c.String("runner-class")}
	path, in := c.String("job"), c.Root().Reader
	if path != "-" {
		file, err := os.Open(path)
		if err != nil {
			return facts, fault.Adminf("reading the job response: %w", err)
		}
		defer func() { _ = file.Close() }()
		in = file
	}
	data, err := io.ReadAll(io.LimitReader(in, gitlab.MaxJobResponse+1))
	if err != nil {
		return facts, fault.Adminf("reading the job response: %w", err)
	}
	if facts.Job, err = gitlab.ParseJobResponse(data); err != nil {
		return facts, fault.WithRemedy(fault.Adminf("%s: %w", path, err), "a runner would refuse this job, too; save what JOB_RESPONSE_FILE names while a job runs")
	}
	if token == nil {
		return facts, nil
	}
	verifier, err := newVerifier(token)
	if err != nil {
		return facts, err
	}
	if facts.Identity, err = verifier.Verify(ctx, facts.Job); err != nil {
		facts.IdentityProblem = err.Error()
	}
	return facts, nil
}

// newVerifier returns a verifier as the service's, which has read its keys if they are in a file.
func newVerifier(token *config.IDToken) (*idtoken.Verifier, error) {
	return idtoken.New(idtoken.Options{Issuer: token.Issuer, Audience: token.Audience, Variable: token.Variable, KeysFile: token.Keys})
}

func printExplanation(w io.Writer, e policy.Explanation) error {
	var b strings.Builder
	fmt.Fprintf(&b, "Policy %s. Its rules are tried in this order, and the FIRST MATCH WINS: rules after it are not looked at.\n", e.Policy)
	for i, step := range e.Rules {
		fmt.Fprintf(&b, "\n%d. %s: %s\n", i+1, printable(step.Name), strings.ToUpper(step.Outcome))
		if step.Why != "" {
			fmt.Fprintf(&b, "   because %s\n", printable(step.Why))
		}
		fmt.Fprintf(&b, "   when    %s\n", printable(strings.Join(strings.Fields(step.When), " ")))
		fmt.Fprintf(&b, "   grants  %s\n", printable(orDash(strings.Join(step.Grants, ", "))))
		for _, fact := range step.Facts {
			fmt.Fprintf(&b, "   fact    %s\n", printable(describeFact(fact)))
		}
	}
	if len(e.Rules) == 0 {
		b.WriteString("\nThere are no rules.\n")
	}
	fmt.Fprintf(&b, "\n%s\n", printable(describeDecision(e)))
	for _, note := range e.Notes {
		fmt.Fprintf(&b, "Note: %s\n", printable(note))
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func describeFact(f policy.Fact) string {
	value := "unknown"
	if f.Known {
		value = fmt.Sprintf("%#v", f.Value)
		if list, ok := f.Value.([]string); ok {
			value = fmt.Sprintf("%q", list)
		}
	}
	return fmt.Sprintf("%s is %s (%s: %s)", f.Name, value, f.Provenance, f.Source)
}

func describeDecision(e policy.Explanation) string {
	if e.Decision == nil {
		return fmt.Sprintf("Decision: REJECTED by rule %s: %s", e.Rule, e.Refusal)
	}
	d := e.Decision
	all := func(list []string) string {
		if len(list) == 0 {
			return "all"
		}
		return strings.Join(list, ", ")
	}
	limits := strings.Join([]string{
		"memory " + limitOf(d.Memory, bytesize.Format(d.Memory)), "cpus " + limitOf(d.CPUs, fmt.Sprint(d.CPUs)),
		"pids " + limitOf(d.PIDs, fmt.Sprint(d.PIDs)), "scratch " + limitOf(d.Scratch, bytesize.Format(d.Scratch)),
		"timeout " + limitOf(d.Timeout, time.Duration(d.Timeout*float64(time.Second)).String()),
	}, ", ")
	return fmt.Sprintf("Decision: %s isolation, because %s; %s, network %s, cache %s, images %s, services %s, pull policies %s",
		d.Isolation, e.Reason, limits, d.Network, d.Cache, all(d.Images), all(d.Services), strings.Join(d.PullPolicies, ", "))
}

func limitOf[T int64 | float64](n T, text string) string {
	if n == 0 {
		return "without limit"
	}
	return text
}

func testPolicy(ctx context.Context, c *cli.Command) error {
	paths, err := arguments(ctx, c, 1, -1)
	if err != nil {
		return err
	}
	p, _, err := loadPolicy(c)
	if err != nil {
		return err
	}
	var results []policytest.Result
	for _, path := range paths {
		suite, err := policytest.Load(path)
		if err != nil {
			return err
		}
		results = append(results, suite.Run(p)...)
	}
	failed := len(slices.DeleteFunc(slices.Clone(results), func(r policytest.Result) bool { return len(r.Problems) == 0 }))
	if c.Bool("json") {
		err = printJSON(c.Root().Writer, results)
	} else {
		err = printResults(c.Root().Writer, results)
	}
	if err == nil && failed > 0 {
		return fault.Adminf("%d of %d tests failed", failed, len(results))
	}
	return err
}

func printResults(w io.Writer, results []policytest.Result) error {
	for _, r := range results {
		verdict := "ok    "
		if len(r.Problems) > 0 {
			verdict = "FAILED"
		}
		if _, err := fmt.Fprintf(w, "%s  %s\n", verdict, printable(r.Name)); err != nil {
			return err
		}
		for _, problem := range r.Problems {
			if _, err := fmt.Fprintf(w, "        %s\n", printable(problem)); err != nil {
				return err
			}
		}
	}
	return nil
}
