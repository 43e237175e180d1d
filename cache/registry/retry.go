package registry

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

const (
	// requestTries is how often a manifest, or whatever is small, is asked for.
	requestTries = 4
	// blobTries is how often a blob is asked for without getting on by blobProgress bytes.
	blobTries    = 5
	blobProgress = 1 << 20
	// firstPause and maxPause bound what lies between tries; each pause is three times the one before, give or take a half.
	firstPause = 300 * time.Millisecond
	maxPause   = 10 * time.Second
	// maxRetryAfter is the longest that a registry may have itself waited for.
	maxRetryAfter = time.Minute
)

// persist asks until an answer is final, at most so many times. Each try has a deadline.
func (r *Repository) persist(ctx context.Context, tries int, ask func(context.Context) error) error {
	for n := 1; ; n++ {
		err := r.timed(ctx, ask)
		if err == nil || n == tries || !r.transient(err) || !r.pause(ctx, n) {
			return err
		}
	}
}

var errSlow = errors.New("its answer takes too long")

func (r *Repository) timed(ctx context.Context, ask func(context.Context) error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, 2*r.silence, errSlow)
	defer cancel()
	err := ask(ctx)
	if err != nil && errors.Is(context.Cause(ctx), errSlow) {
		return errSlow
	}
	return err
}

// pause waits after the n-th failure. It returns false when there is no point in trying again.
func (r *Repository) pause(ctx context.Context, n int) bool {
	wait := firstPause
	for range n - 1 {
		wait = min(3*wait, maxPause)
	}
	wait = wait/2 + rand.N(wait)
	if asked := time.Until(time.Unix(0, r.session.busy.Swap(0))); asked > maxRetryAfter {
		return false
	} else if asked > 0 {
		wait = max(wait, asked)
	}
	select {
	case <-ctx.Done():
		return false
	case <-time.After(wait):
		return true
	}
}

// transient reports whether the same request may succeed soon. A host that cannot be dialled counts only if it could
// before: else its name is likelier wrong than its registry down, and who waits is better told at once.
func (r *Repository) transient(err error) bool {
	var answer *transport.Error
	var dialling *net.OpError
	switch {
	case errors.As(err, &answer):
		return transientStatus(answer.StatusCode)
	case errors.As(err, &dialling) && dialling.Op == "dial" && !r.session.reached():
		return false
	default:
		return networkFailure(err) != ""
	}
}

// transientStatus are the codes of distribution's specification and of the proxies that stand before registries.
func transientStatus(code int) bool {
	switch code {
	case http.StatusRequestTimeout, http.StatusTooEarly, http.StatusTooManyRequests, 499,
		http.StatusInternalServerError, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout,
		520, 521, 522, 523, 524:
		return true
	}
	return false
}

// networkFailure describes an error of the network; empty if it is of another kind. It quotes nothing of what came.
func networkFailure(err error) string {
	var address *addressError
	var lookup *net.DNSError
	var number syscall.Errno
	var network net.Error
	switch {
	case errors.As(err, &address) || badCertificate(err):
		return ""
	case errors.As(err, &lookup):
		if lookup.IsNotFound {
			return ""
		}
		return "its name could not be looked up"
	case errors.Is(err, errStalled):
		return errStalled.Error()
	case errors.Is(err, errSlow):
		return errSlow.Error()
	case errors.As(err, &number):
		return number.Error()
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded), errors.As(err, &network) && network.Timeout():
		return "it did not answer in time"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, net.ErrClosed), brokenStream(err):
		return "the connection broke"
	}
	return ""
}

// brokenStream knows the errors of net/http's HTTP/2, whose types it does not export.
func brokenStream(err error) bool {
	text := err.Error()
	for _, part := range []string{"http2: ", "stream error: ", "connection error: ", "server closed idle connection", "transport connection broken: EOF"} {
		if strings.Contains(text, part) {
			return true
		}
	}
	return false
}
