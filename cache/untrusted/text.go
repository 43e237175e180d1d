// Package untrusted handles what strangers send: texts for a job's log, and streams.
//
// Texts lose what a terminal would obey and what URLs hide; streams end with their context and are decompressed by what
// they are, with bounded memory. It never believes what a stranger says of its own bytes, and quotes no secret. It knows nothing
// of images. All rooms that read from outside call it.
package untrusted

import (
	"errors"
	"fmt"
	"net/url"
	"strings"
	"unicode"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/airlock-ci/airlock/internal/fault"
)

// Printable makes a stranger's text fit for one line of a job log.
func Printable(s string, limit int) string {
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

// WithoutURL is err's text with URLs reduced to their hosts: queries and users may hold secrets.
func WithoutURL(err error) string {
	var u *url.Error
	if !errors.As(err, &u) {
		return Printable(err.Error(), 500)
	}
	host := "?"
	if parsed, parseErr := url.Parse(u.URL); parseErr == nil {
		host = parsed.Host
	}
	return fmt.Sprintf("%s %s: %s", u.Op, host, Printable(u.Err.Error(), 500))
}

// OtherContent is the failure of what has another digest. It does not say which: where an image's name leads, the
// answer may be anything.
func OtherContent(desc v1.Descriptor) error {
	return fault.Authorf("blob %s was delivered with other content than its digest is of", desc.Digest)
}
