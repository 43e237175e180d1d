package idtoken_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/airlock-ci/airlock/gitlab"
	"github.com/airlock-ci/airlock/internal/fault"
	"github.com/airlock-ci/airlock/policy/idtoken"
	"github.com/airlock-ci/airlock/testing/gitlabtest"
)

const (
	audience = "https://airlock.example.com"
	variable = "AIRLOCK_ID_TOKEN"
)

var protected = true

// job is the job that the tests' tokens are made for.
func job() gitlabtest.Job { return gitlabtest.Job{ID: 7, Protected: &protected} }

// carrying is that job's response, with tokens.
func carrying(tokens ...string) *gitlab.JobResponse {
	project, ref := int64(42), "main"
	response := &gitlab.JobResponse{ID: 7, JobInfo: gitlab.JobInfo{ProjectID: &project}, GitInfo: gitlab.GitInfo{Ref: &ref}}
	for _, token := range tokens {
		response.Variables = append(response.Variables, gitlab.Variable{Key: variable, Value: gitlab.Secret(token)})
	}
	return response
}

func keysFile(t *testing.T, content []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "keys.json")
	require.NoError(t, os.WriteFile(path, content, 0o600))
	return path
}

func newVerifier(t *testing.T, issuer *gitlabtest.Issuer) *idtoken.Verifier {
	t.Helper()
	v, err := idtoken.New(idtoken.Options{Issuer: issuer.URL, Audience: audience, Variable: variable, KeysFile: keysFile(t, issuer.JWKS())})
	require.NoError(t, err)
	return v
}

func TestAGoodToken(t *testing.T) {
	issuer := gitlabtest.NewIssuer("https://gitlab.example.com")
	v := newVerifier(t, issuer)
	for name, change := range map[string]map[string]any{
		"as GitLab writes it": nil,
		"numbers and truths":  {"job_id": 7, "project_id": 42, "ref_protected": true},
		"several audiences":   {"aud": []string{"x", audience}},
	} {
		t.Run(name, func(t *testing.T) {
			identity, err := v.Verify(t.Context(), carrying(issuer.Sign(issuer.Claims(job(), audience, change))))
			require.NoError(t, err)
			require.EqualValues(t, 7, *identity.JobID)
			require.EqualValues(t, 42, *identity.ProjectID)
			require.EqualValues(t, 1, *identity.RunnerID)
			require.Equal(t, "group/project", *identity.ProjectPath)
			require.Equal(t, "developer", *identity.UserAccessLevel)
			require.True(t, *identity.RefProtected)
			require.Nil(t, identity.Environment)
			require.Nil(t, identity.EnvironmentProtected)
		})
	}
	identity, err := v.Verify(t.Context(), carrying())
	require.NoError(t, err)
	require.Nil(t, identity, "no token, and nothing wrong")
}

// TestBadTokens has what an author may send, and what the job log then says.
func TestBadTokens(t *testing.T) {
	issuer := gitlabtest.NewIssuer("https://gitlab.example.com")
	forger := gitlabtest.NewIssuer(issuer.URL)
	v := newVerifier(t, issuer)
	sign := func(change map[string]any) string { return issuer.Sign(issuer.Claims(job(), audience, change)) }
	good := sign(nil)
	parts := strings.Split(good, ".")
	for name, c := range map[string]struct{ token, want string }{
		"not a token":                {"hello", "it is no signed token"},
		"unsigned":                   {gitlabtest.Unsigned(issuer.Claims(job(), audience, nil)), "is no signed token"},
		"the signature cut off":      {parts[0] + "." + parts[1] + ".", "its signature is not its issuer's"},
		"the payload changed":        {parts[0] + "." + strings.Split(sign(map[string]any{"job_id": "8"}), ".")[1] + "." + parts[2], "its signature is not its issuer's"},
		"signed with the public key": {issuer.SignShared(issuer.Claims(job(), audience, nil)), "is no signed token"},
		"another's key":              {forger.Sign(issuer.Claims(job(), audience, nil)), "its signature is not its issuer's"},
		"another issuer":             {sign(map[string]any{"iss": "https://evil.example.com"}), "another issuer signed it"},
		"issuer with a slash":        {sign(map[string]any{"iss": issuer.URL + "/"}), "another issuer signed it"},
		"another audience":           {sign(map[string]any{"aud": "https://vault.example.com"}), "it is meant for another audience"},
		"no audience":                {sign(map[string]any{"aud": nil}), "it is meant for another audience"},
		"expired":                    {sign(map[string]any{"exp": time.Now().Add(-time.Second).Unix()}), "it has expired"},
		"without expiry":             {sign(map[string]any{"exp": nil}), "it has expired"},
		"not valid yet":              {sign(map[string]any{"nbf": time.Now().Add(time.Hour).Unix()}), "it is not valid yet"},
		"another job":                {sign(map[string]any{"job_id": "8"}), "it was made for another job"},
		"no job":                     {sign(map[string]any{"job_id": nil}), "it was made for another job"},
		"a job that is no number":    {sign(map[string]any{"job_id": []int{7}}), "it was made for another job"},
		"another project":            {sign(map[string]any{"project_id": "43"}), "another project"},
		"another ref":                {sign(map[string]any{"ref": "feature"}), "another ref"},
		"no ref":                     {sign(map[string]any{"ref": nil}), "another ref"},
		"claims of other types":      {sign(map[string]any{"ref": 5}), "its claims are not those of GitLab"},
		"too long":                   {good + strings.Repeat("x", 20<<10), "it is too long"},
	} {
		t.Run(name, func(t *testing.T) {
			identity, err := v.Verify(t.Context(), carrying(good, c.token))
			require.Nil(t, identity)
			require.ErrorContains(t, err, c.want)
			for _, part := range strings.Split(c.token, ".") {
				if len(part) > 8 {
					require.NotContains(t, err.Error(), part)
				}
			}
		})
	}
	for name, response := range map[string]*gitlab.JobResponse{
		"the job's project is unknown": {ID: 7, GitInfo: carrying().GitInfo, Variables: carrying(good).Variables},
		"the job's ref is unknown":     {ID: 7, JobInfo: carrying().JobInfo, Variables: carrying(good).Variables},
	} {
		t.Run(name, func(t *testing.T) {
			identity, err := v.Verify(t.Context(), response)
			require.Nil(t, identity)
			require.ErrorContains(t, err, "is unknown")
		})
	}
}

// gitlabServer publishes an issuer's keys as GitLab does, and counts how often it is asked for them.
type gitlabServer struct {
	*httptest.Server
	issuer *gitlabtest.Issuer
	asked  atomic.Int32
	broken atomic.Bool
}

func serve(t *testing.T) *gitlabServer {
	t.Helper()
	g := &gitlabServer{}
	mux := http.NewServeMux()
	mux.HandleFunc("/.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
		if g.broken.Load() {
			http.Error(w, "no", http.StatusBadGateway)
			return
		}
		fmt.Fprintf(w, `{"issuer":%q,"jwks_uri":%q,"id_token_signing_alg_values_supported":["RS256"]}`, g.URL, g.URL+"/oauth/discovery/keys")
	})
	mux.HandleFunc("/oauth/discovery/keys", func(w http.ResponseWriter, _ *http.Request) {
		g.asked.Add(1)
		_, _ = w.Write(g.issuer.JWKS())
	})
	g.Server = httptest.NewTLSServer(mux)
	t.Cleanup(g.Close)
	g.issuer = gitlabtest.NewIssuer(g.URL)
	return g
}

func TestKeysAreFetchedAndCached(t *testing.T) {
	g := serve(t)
	now := time.Now()
	v, err := idtoken.New(idtoken.Options{
		Issuer: g.URL, Audience: audience, Variable: variable, HTTP: g.Client(), Now: func() time.Time { return now },
	})
	require.NoError(t, err)
	verify := func() error {
		_, err := v.Verify(t.Context(), carrying(g.issuer.Sign(g.issuer.Claims(job(), audience, map[string]any{"exp": now.Add(time.Hour).Unix()}))))
		return err
	}
	for range 3 {
		require.NoError(t, verify())
	}
	require.EqualValues(t, 1, g.asked.Load())

	// A token may name any key: that is no reason to ask GitLab for each.
	forger := gitlabtest.NewIssuer(g.URL)
	for i := range 5 {
		forger.KeyID = fmt.Sprint("made-up-", i)
		_, err := v.Verify(t.Context(), carrying(forger.Sign(forger.Claims(job(), audience, nil))))
		require.ErrorContains(t, err, "signature is not its issuer's")
	}
	require.EqualValues(t, 1, g.asked.Load())

	// A new key of GitLab's is found, a minute later.
	g.issuer = gitlabtest.NewIssuer(g.URL)
	g.issuer.KeyID = "key-2"
	now = now.Add(2 * time.Minute)
	require.NoError(t, verify())
	require.EqualValues(t, 2, g.asked.Load())

	// GitLab is away for some hours, and then for too long.
	g.broken.Store(true)
	now = now.Add(5 * time.Hour)
	require.NoError(t, verify())
	now = now.Add(24 * time.Hour)
	require.ErrorContains(t, verify(), "the keys of its issuer could not be fetched")
	g.broken.Store(false)
	require.ErrorContains(t, verify(), "the keys of its issuer could not be fetched", "it is left alone for a minute")
	now = now.Add(2 * time.Minute)
	require.NoError(t, verify())
}

func TestKeysAreNotFetchedInTheClear(t *testing.T) {
	g := serve(t)
	clear := httptest.NewServer(g.Config.Handler)
	t.Cleanup(clear.Close)
	issuer := gitlabtest.NewIssuer(clear.URL)
	v, err := idtoken.New(idtoken.Options{Issuer: clear.URL, Audience: audience, Variable: variable, HTTP: clear.Client()})
	require.NoError(t, err)
	_, err = v.Verify(t.Context(), carrying(issuer.Sign(issuer.Claims(job(), audience, nil))))
	require.ErrorContains(t, err, "could not be fetched")
	require.Zero(t, g.asked.Load())
}

func TestBadKeyFiles(t *testing.T) {
	for name, content := range map[string]string{
		"empty": ``, "no JSON": `hello`, "no keys": `{"keys":[]}`,
		"a shared secret": `{"keys":[{"kty":"oct","k":"c2VjcmV0","kid":"x"}]}`,
	} {
		t.Run(name, func(t *testing.T) {
			path := keysFile(t, []byte(content))
			_, err := idtoken.New(idtoken.Options{Issuer: "https://g", Audience: audience, Variable: variable, KeysFile: path})
			require.ErrorContains(t, err, "policy.id_token.keys: "+path)
			require.Equal(t, fault.Admin, fault.ClassOf(err))
		})
	}
	_, err := idtoken.New(idtoken.Options{KeysFile: filepath.Join(t.TempDir(), "none")})
	require.ErrorIs(t, err, os.ErrNotExist)
}
