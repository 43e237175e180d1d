package gitlabtest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// Issuer signs id tokens as GitLab does. Its keys are its own.
type Issuer struct {
	// URL is what tokens have in iss.
	URL string
	// KeyID names its key.
	KeyID string
	key   *ecdsa.PrivateKey
}

// NewIssuer returns an issuer with a fresh key.
func NewIssuer(url string) *Issuer {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(fmt.Sprintf("gitlabtest: making a key: %v", err)) // crypto/rand never fails
	}
	return &Issuer{URL: url, KeyID: "key-1", key: key}
}

// JWKS is the issuer's public key as GitLab publishes it.
func (i *Issuer) JWKS() []byte {
	set := jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: i.key.Public(), KeyID: i.KeyID, Algorithm: "ES256", Use: "sig"}}}
	encoded, err := json.Marshal(set)
	if err != nil {
		panic(fmt.Sprintf("gitlabtest: encoding a key: %v", err)) // it is a public key
	}
	return encoded
}

// Claims are those of a token for a job, as GitLab writes them; change overrides them, nil values remove them.
func (i *Issuer) Claims(job Job, audience string, change map[string]any) map[string]any {
	job = job.filled()
	now := time.Now()
	claims := map[string]any{
		"iss": i.URL, "aud": audience, "sub": fmt.Sprintf("project_path:%s:ref_type:branch:ref:%s", job.ProjectPath, job.Ref),
		"iat": now.Unix(), "nbf": now.Add(-5 * time.Second).Unix(), "exp": now.Add(time.Hour).Unix(), "jti": rand.Text(),
		"job_id": fmt.Sprint(job.ID), "project_id": fmt.Sprint(job.ProjectID), "project_path": job.ProjectPath,
		"project_visibility": "private", "namespace_id": "7", "namespace_path": "group", "user_id": "1", "user_login": "ab",
		"user_access_level": "developer", "pipeline_id": "1000", "pipeline_source": "push", "ref": job.Ref, "ref_type": "branch",
		"ref_protected": fmt.Sprint(job.Protected != nil && *job.Protected), "sha": job.SHA, "runner_id": 1, "runner_environment": "self-hosted",
		"ci_config_ref_uri": "gitlab.example.com/" + job.ProjectPath + "//.gitlab-ci.yml@refs/heads/" + job.Ref,
	}
	maps.Copy(claims, change)
	maps.DeleteFunc(claims, func(_ string, value any) bool { return value == nil })
	return claims
}

// Sign returns the token with the claims, signed with the issuer's key.
func (i *Issuer) Sign(claims map[string]any) string { return i.sign(claims, jose.ES256, i.key) }

// SignShared returns a token that is signed with a shared secret: the issuer's public key, as the classic forgery does.
func (i *Issuer) SignShared(claims map[string]any) string {
	public, err := i.key.PublicKey.ECDH()
	if err != nil {
		panic(fmt.Sprintf("gitlabtest: a public key: %v", err)) // it is one of a supported curve
	}
	return i.sign(claims, jose.HS256, public.Bytes())
}

func (i *Issuer) sign(claims map[string]any, algorithm jose.SignatureAlgorithm, key crypto.PrivateKey) string {
	payload, err := json.Marshal(claims)
	if err != nil {
		panic(fmt.Sprintf("gitlabtest: encoding claims: %v", err)) // they are JSON values
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: algorithm, Key: key}, (&jose.SignerOptions{}).WithType("JWT").WithHeader("kid", i.KeyID))
	if err != nil {
		panic(fmt.Sprintf("gitlabtest: signing: %v", err)) // the keys are made above
	}
	signed, err := signer.Sign(payload)
	if err != nil {
		panic(fmt.Sprintf("gitlabtest: signing: %v", err))
	}
	token, err := signed.CompactSerialize()
	if err != nil {
		panic(fmt.Sprintf("gitlabtest: signing: %v", err))
	}
	return token
}

// Unsigned returns a token with the algorithm "none" and no signature.
func Unsigned(claims map[string]any) string {
	payload, err := json.Marshal(claims)
	if err != nil {
		panic(fmt.Sprintf("gitlabtest: encoding claims: %v", err)) // they are JSON values
	}
	encode := base64.RawURLEncoding.EncodeToString
	return encode([]byte(`{"alg":"none","typ":"JWT"}`)) + "." + encode(payload) + "."
}
