package cache

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"unicode"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"github.com/airlock-ci/airlock/executor/api/fault"
)

// registryFault says in an author's words why a registry did not deliver. A refusal is the author's; what a
// retry may change (network, overload, time-outs) is the system's. Response bodies that are no registry's
// errors are never quoted: an image's name may lead to any web server.
func registryFault(ctx context.Context, ref reference, err error) error {
	var classified *fault.Error
	if errors.As(err, &classified) {
		return err
	}
	if ctx.Err() != nil {
		return fault.Systemf("pulling %s: %w", ref.asked, context.Cause(ctx))
	}
	host := ref.remote.Context().RegistryStr()
	if errors.Is(err, errPlainHTTP) {
		return fault.WithRemedy(fault.Adminf("pulling %s: registry %s: %w", ref.asked, host, errPlainHTTP),
			"list it in insecure_registries if that is meant")
	}
	if errors.Is(err, errLinkLocal) {
		return fault.Authorf("pulling %s: registry %s is refused: %w", ref.asked, host, errLinkLocal)
	}
	var answer *transport.Error
	if !errors.As(err, &answer) {
		return fault.Systemf("pulling %s: registry %s: %s", ref.asked, host, withoutURL(err))
	}
	said := fmt.Sprintf("registry %s said %s", host, describeAnswer(answer))
	switch status := answer.StatusCode; {
	case status == http.StatusUnauthorized || status == http.StatusForbidden:
		return fault.WithRemedy(fault.Authorf("image %s: access denied: %s", ref.asked, said),
			"check the image's name, and that GitLab gives the job credentials for that registry")
	case status == http.StatusNotFound:
		return fault.WithRemedy(fault.Authorf("image %s: not found: %s", ref.asked, said),
			"check the image's name and tag")
	case status == http.StatusRequestTimeout || status == http.StatusTooManyRequests || status == 499 || status >= 500:
		return fault.Systemf("pulling %s: %s", ref.asked, said)
	default:
		return fault.WithRemedy(fault.Authorf("image %s: refused: %s", ref.asked, said), "check the image's name")
	}
}

// isGone tells whether the registry answered that there is no such thing.
func isGone(err error) bool {
	var answer *transport.Error
	return errors.As(err, &answer) && answer.StatusCode == http.StatusNotFound
}

func describeAnswer(answer *transport.Error) string {
	text := fmt.Sprintf("%d %s", answer.StatusCode, http.StatusText(answer.StatusCode))
	for i, d := range answer.Errors {
		if i == 3 {
			break
		}
		text += fmt.Sprintf("; %s: %s", printable(string(d.Code), 40), printable(d.Message, 200))
	}
	return text
}

// printable makes a stranger's text fit for one line of a job log.
func printable(s string, limit int) string {
	s = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, s)
	if runes := []rune(s); len(runes) > limit {
		return string(runes[:limit]) + "..."
	}
	return s
}

// withoutURL is err's text with URLs reduced to their hosts: queries and users may hold secrets.
func withoutURL(err error) string {
	var u *url.Error
	if !errors.As(err, &u) {
		return printable(err.Error(), 500)
	}
	host := "?"
	if parsed, parseErr := url.Parse(u.URL); parseErr == nil {
		host = parsed.Host
	}
	return fmt.Sprintf("%s %s: %s", u.Op, host, printable(u.Err.Error(), 500))
}
