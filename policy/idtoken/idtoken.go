// Package idtoken verifies the id tokens that GitLab signs for jobs (id_tokens: in .gitlab-ci.yml). It checks who signed
// a token, for whom, until when, and that it was made for this very job; what it cannot check, it does not believe.
//
// The issuer's keys are fetched and cached, or read from a file where the issuer cannot be reached. Package jobs calls
// it. Its errors never quote a token: they go to job logs.
package idtoken

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"

	"github.com/airlock-ci/airlock/gitlab"
	"github.com/airlock-ci/airlock/policy"
)

// maxToken is the largest token that is looked at, in bytes. GitLab's have about 2 KiB.
const maxToken = 16 << 10

// Options say which tokens are believed.
type Options struct {
	// Issuer is GitLab's URL, exactly as tokens have it in iss; Audience is what they must have in aud.
	Issuer, Audience string
	// Variable is the name that jobs give to the token.
	Variable string
	// KeysFile holds the issuer's keys as a JWKS; empty fetches them from the issuer.
	KeysFile string
	// HTTP fetches keys; nil means a client of the package's own.
	HTTP *http.Client
	// Now is time.Now, but in tests.
	Now func() time.Time
}

// Verifier verifies tokens. It is safe for concurrent use.
type Verifier struct {
	opts Options
	keys keys
}

// New returns a verifier. It reads KeysFile, and fails when that is no file with keys; it does not go to the network.
func New(o Options) (*Verifier, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.KeysFile != "" {
		fixed, err := readKeys(o.KeysFile)
		if err != nil {
			return nil, err
		}
		return &Verifier{opts: o, keys: fixed}, nil
	}
	return &Verifier{opts: o, keys: newFetched(o)}, nil
}

// Verify returns what the job's token says, or nil when it carries none. Of several variables with the token's name the
// last one counts, as in GitLab.
func (v *Verifier) Verify(ctx context.Context, job *gitlab.JobResponse) (*policy.Identity, error) {
	token := ""
	for _, variable := range job.Variables {
		if variable.Key == v.opts.Variable {
			token = string(variable.Value)
		}
	}
	switch {
	case token == "":
		return nil, nil //nolint:nilnil // no token, and nothing wrong
	case len(token) > maxToken:
		return nil, errors.New("it is too long")
	}
	set, err := v.keys.current(ctx)
	if err != nil {
		return nil, err
	}
	verified, err := oidc.NewVerifier(v.opts.Issuer, set, &oidc.Config{
		ClientID: v.opts.Audience, SupportedSigningAlgs: algorithms(), Now: v.opts.Now,
	}).Verify(ctx, token)
	if err != nil {
		return nil, explain(err)
	}
	var c claims
	if err := verified.Claims(&c); err != nil {
		return nil, errors.New("its claims are not those of GitLab")
	}
	if err := c.belongTo(job); err != nil {
		return nil, err
	}
	return c.identity(), nil
}

// algorithms are those with a key pair: with a shared secret, or none, everybody can sign.
func algorithms() []string {
	return []string{oidc.RS256, oidc.RS384, oidc.RS512, oidc.PS256, oidc.PS384, oidc.PS512, oidc.ES256, oidc.ES384, oidc.ES512, oidc.EdDSA}
}

// errKeys marks that the issuer's keys are not to be had.
var errKeys = errors.New("the keys of its issuer could not be fetched")

// explain says what is wrong with a token in words of ours: go-oidc's quote it in parts.
func explain(err error) error {
	var expired *oidc.TokenExpiredError
	if errors.As(err, &expired) {
		return errors.New("it has expired")
	}
	message := err.Error()
	for _, known := range []struct{ sign, meaning string }{
		{"fetching keys", errKeys.Error()},
		{"malformed jwt", "it is no signed token"},
		{"issued by a different provider", "another issuer signed it"},
		{"expected audience", "it is meant for another audience"},
		{"unsupported algorithm", "it is signed with an algorithm that is not accepted"},
		{"unexpected signature algorithm", "it is signed with an algorithm that is not accepted"},
		{"signed with unsupported", "it is signed with an algorithm that is not accepted"},
		{"nbf", "it is not valid yet"},
		{"not signed", "it is not signed"},
		{"failed to verify", "its signature is not its issuer's"},
	} {
		if strings.Contains(message, known.sign) {
			return errors.New(known.meaning)
		}
	}
	return errors.New("it cannot be verified")
}
