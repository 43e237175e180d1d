package idtoken

import (
	"bytes"
	"context"
	"crypto"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/go-jose/go-jose/v4"

	"github.com/airlock-ci/airlock/internal/fault"
)

const (
	// fetchTimeout bounds one request to the issuer.
	fetchTimeout = 10 * time.Second
	// quiet is how long an answer of the issuer's is not asked for again. Tokens name their key, so a job that makes
	// one up for each of its tokens would else cause a request for each.
	quiet = time.Minute
	// fresh is how long keys are used without asking again; stale is how long, when the issuer does not answer.
	fresh, stale = time.Hour, 24 * time.Hour
	// maxAnswer bounds what is read of an answer, in bytes.
	maxAnswer = 1 << 20
)

// keys gives the issuer's keys.
type keys interface {
	current(ctx context.Context) (oidc.KeySet, error)
}

// fixed are keys from a file.
type fixed struct{ set oidc.KeySet }

func (f fixed) current(context.Context) (oidc.KeySet, error) { return f.set, nil }

// readKeys reads a JWKS. Only public keys of pairs count: with a shared secret every reader of the file could sign.
func readKeys(path string) (fixed, error) {
	refuse := func(err error) (fixed, error) {
		return fixed{}, fault.WithRemedy(fault.Adminf("policy.id_token.keys: %s: %w", path, err),
			"save what the issuer has at /oauth/discovery/keys there")
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return refuse(err)
	}
	var set jose.JSONWebKeySet
	if err := json.Unmarshal(data, &set); err != nil {
		return refuse(err)
	}
	var public []crypto.PublicKey
	for _, key := range set.Keys {
		if _, isSecret := key.Key.([]byte); isSecret || !key.Valid() {
			continue
		}
		public = append(public, key.Public().Key)
	}
	if len(public) == 0 {
		return refuse(errors.New("there is no public key in it"))
	}
	return fixed{&oidc.StaticKeySet{PublicKeys: public}}, nil
}

// fetched are keys that the issuer publishes, by OpenID Connect's discovery.
type fetched struct {
	issuer string
	client *http.Client
	now    func() time.Time

	mu     sync.Mutex
	set    oidc.KeySet
	at     time.Time // of set
	failed time.Time // when the issuer last did not answer
}

func newFetched(o Options) *fetched {
	client := &http.Client{Timeout: fetchTimeout}
	if o.HTTP != nil {
		copied := *o.HTTP
		client = &copied
	}
	next := client.Transport
	if next == nil {
		next = http.DefaultTransport
	}
	client.Transport = &calm{next: next, now: o.Now, answers: map[string]answer{}}
	return &fetched{issuer: o.Issuer, client: client, now: o.Now}
}

// current returns the keys, fetched when they are old. While the issuer does not answer, keys are used for a day.
func (f *fetched) current(ctx context.Context) (oidc.KeySet, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	age := f.now().Sub(f.at)
	if f.set != nil && age < fresh {
		return f.set, nil
	}
	if f.now().Sub(f.failed) > quiet { // each job would else wait for an issuer that does not answer
		if f.fetch(ctx) {
			return f.set, nil
		}
		f.failed = f.now()
	}
	if f.set == nil || age > stale {
		return nil, errKeys
	}
	return f.set, nil
}

// fetch makes a new set of keys, if the issuer says where they are.
func (f *fetched) fetch(ctx context.Context) bool {
	// Beyond this call: the set asks again for keys that it does not know.
	ctx = oidc.ClientContext(context.WithoutCancel(ctx), f.client)
	provider, err := oidc.NewProvider(ctx, f.issuer)
	if err != nil {
		return false
	}
	var metadata struct {
		JWKS string `json:"jwks_uri"`
	}
	if err := provider.Claims(&metadata); err != nil || metadata.JWKS == "" {
		return false
	}
	f.set, f.at = oidc.NewRemoteKeySet(ctx, metadata.JWKS), f.now()
	return true
}

// calm is a transport that gives the last good answer again for a while, whatever is asked for how often.
type calm struct {
	next http.RoundTripper
	now  func() time.Time

	mu      sync.Mutex
	answers map[string]answer
}

type answer struct {
	at     time.Time
	header http.Header
	body   []byte
}

// RoundTrip implements http.RoundTripper.
func (c *calm) RoundTrip(req *http.Request) (*http.Response, error) {
	c.mu.Lock()
	kept, ok := c.answers[req.URL.String()]
	c.mu.Unlock()
	if ok && c.now().Sub(kept.at) < quiet {
		return kept.response(req), nil
	}
	if req.URL.Scheme != "https" {
		return nil, errors.New("keys are not fetched without encryption")
	}
	response, err := c.next.RoundTrip(req)
	if err != nil || response.StatusCode != http.StatusOK {
		return response, err
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer+1))
	if err != nil || len(body) > maxAnswer {
		return nil, errors.Join(errors.New("the answer is cut off or too large"), err)
	}
	kept = answer{at: c.now(), header: response.Header, body: body}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.answers[req.URL.String()] = kept // two addresses: the issuer's configuration and its keys
	return kept.response(req), nil
}

func (a answer) response(req *http.Request) *http.Response {
	return &http.Response{
		Status: "200 OK", StatusCode: http.StatusOK, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: a.header, Body: io.NopCloser(bytes.NewReader(a.body)), ContentLength: int64(len(a.body)), Request: req,
	}
}
