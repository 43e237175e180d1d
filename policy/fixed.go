package policy

import (
	"context"
)

// Fixed gives every job the same grant.
type Fixed Grant

// Decide returns the fixed decision. A job's author may ask for more isolation; an administrator (`airlock run`) for
// another level or network.
func (f Fixed) Decide(_ context.Context, facts Facts) (Decision, error) {
	grant := Grant(f)
	digest := digest(Source{Default: grant}) // that of a policy without rules, which decides alike
	if facts.Administrator {
		return administer(grant, digest, facts)
	}
	reason := "isolation = \"" + f.Level.String() + "\" in the runner's configuration"
	return heed(grant.decision(DefaultRule, digest, reason), facts), nil
}
