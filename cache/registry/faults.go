package registry

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"github.com/airlock-ci/airlock/cache/image"
	"github.com/airlock-ci/airlock/cache/untrusted"
	"github.com/airlock-ci/airlock/internal/fault"
)

// Fault says in an author's words why a registry did not deliver. A refusal, and whatever is wrong with the image
// or its name, is the author's; what a retry may change (network, overload, time-outs) is the system's. An image's name
// may lead to any web server, and a registry to any other, so nothing of an answer is quoted but the errors that the
// registry itself gives in the form of one.
func Fault(ctx context.Context, ref image.Reference, err error) error {
	var classified *fault.Error
	if errors.As(err, &classified) {
		return err
	}
	if ctx.Err() != nil {
		return fault.Systemf("pulling %s: %w", ref.Asked, context.Cause(ctx))
	}
	var away *elsewhereError
	host, where := ref.Remote.Context().RegistryStr(), ""
	if errors.As(err, &away) {
		where = "leads to " + untrusted.Printable(away.host, 100) + ": "
	}
	var answer *transport.Error
	if errors.As(err, &answer) {
		return answerFault(ref, host, answer)
	}
	if refused := placeFault(ref, host, where, err); refused != nil {
		return refused
	}
	if failure := networkFailure(err); failure != "" {
		return fault.Systemf("pulling %s: registry %s: %s%s", ref.Asked, host, where, failure)
	}
	// After all others: one is the other's last resort.
	if errors.Is(err, errPlainHTTP) || onlyPlainHTTP(err) {
		return plainHTTP(ref, host)
	}
	return fault.WithRemedy(fault.Authorf("image %s: registry %s: %sit does not answer as a registry does", ref.Asked, host, where), "check the image's name")
}

// placeFault is the fault of a registry that is, or leads, where no pull may or can go; nil when it is none.
func placeFault(ref image.Reference, host, where string, err error) error {
	var address *addressError
	var lookup *net.DNSError
	var certificate *tls.CertificateVerificationError
	switch {
	case errors.As(err, &address) && where == "" && address.reach == onHost:
		return fault.WithRemedy(fault.Adminf("pulling %s: registry %s is this runner's own host, which images may not name", ref.Asked, host),
			"list it in insecure_registries if that is meant")
	case errors.As(err, &address):
		return fault.Authorf("pulling %s: registry %s is refused: %s%w", ref.Asked, host, where, address)
	case errors.Is(err, errRedirects):
		return fault.Authorf("pulling %s: registry %s is refused: %w", ref.Asked, host, errRedirects)
	case errors.Is(err, errPlainHTTP) && where != "":
		return fault.Authorf("pulling %s: registry %s is refused: %s%w", ref.Asked, host, where, errPlainHTTP)
	case errors.As(err, &certificate) && where != "":
		return fault.Authorf("pulling %s: registry %s is refused: %sits certificate is not trusted", ref.Asked, host, where)
	case errors.As(err, &certificate):
		return fault.WithRemedy(fault.Adminf("pulling %s: registry %s: its certificate is not trusted: %s", ref.Asked, host, untrusted.Printable(certificate.Err.Error(), 300)),
			"if its authority is your own, add that to this host's certificates")
	case errors.As(err, &lookup) && lookup.IsNotFound:
		return fault.WithRemedy(fault.Authorf("image %s: registry %s: %sthere is no such host", ref.Asked, host, where), "check the image's name")
	}
	return nil
}

// onlyPlainHTTP reports whether a host answered plain HTTP where encryption was wanted, and nothing else was tried: the
// library's error for two attempts is no chain.
func onlyPlainHTTP(err error) bool {
	for ; err != nil; err = errors.Unwrap(err) {
		if err == http.ErrSchemeMismatch { //nolint:errorlint // not what errors.As and errors.Is would find
			return true
		}
	}
	return false
}

func plainHTTP(ref image.Reference, host string) error {
	return fault.WithRemedy(fault.Adminf("pulling %s: registry %s: %w", ref.Asked, host, errPlainHTTP),
		"list it in insecure_registries if that is meant")
}

// answerFault classifies a status. Whatever stands elsewhere has no say in a job's log.
func answerFault(ref image.Reference, host string, answer *transport.Error) error {
	said := fmt.Sprintf("registry %s said %s", host, describeAnswer(answer))
	if answer.Request == nil || !strings.EqualFold(answer.Request.URL.Host, host) {
		elsewhere := "another host"
		if answer.Request != nil {
			elsewhere = untrusted.Printable(answer.Request.URL.Host, 100)
		}
		said = fmt.Sprintf("registry %s leads to %s, which said %s", host, elsewhere, statusLine(answer.StatusCode))
	}
	switch status := answer.StatusCode; {
	case status == http.StatusUnauthorized || status == http.StatusForbidden:
		return fault.WithRemedy(fault.Authorf("image %s: access denied: %s", ref.Asked, said),
			"check the image's name, and that GitLab gives the job credentials for that registry")
	case status == http.StatusNotFound:
		return fault.WithRemedy(fault.Authorf("image %s: not found: %s", ref.Asked, said),
			"check the image's name and tag")
	case transientStatus(status) || status >= http.StatusInternalServerError:
		return fault.Systemf("pulling %s: %s", ref.Asked, said)
	default:
		return fault.WithRemedy(fault.Authorf("image %s: refused: %s", ref.Asked, said), "check the image's name")
	}
}

// badCertificate reports whether a host's certificate is the trouble.
func badCertificate(err error) bool {
	var certificate *tls.CertificateVerificationError
	return errors.As(err, &certificate)
}

// IsGone reports whether the registry answered that there is no such thing.
func IsGone(err error) bool {
	var answer *transport.Error
	return errors.As(err, &answer) && answer.StatusCode == http.StatusNotFound
}

func statusLine(code int) string {
	return strings.TrimSpace(fmt.Sprintf("%d %s", code, http.StatusText(code)))
}

func describeAnswer(answer *transport.Error) string {
	text := statusLine(answer.StatusCode)
	for i, d := range answer.Errors {
		if i == 3 {
			break
		}
		text += fmt.Sprintf("; %s: %s", untrusted.Printable(string(d.Code), 40), untrusted.Printable(d.Message, 200))
	}
	return text
}
