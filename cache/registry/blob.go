package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/airlock-ci/airlock/internal/fault"
)

// blob reads one blob of a registry as if its connection never broke. When that breaks, or nothing comes any more, it
// asks the registry anew, not where the registry had led to, as such URLs expire, and goes on where it was; if the
// registry cannot do that it begins again and skips what it had. It ends after as many bytes as the descriptor says.
// Their digest tells the reader whether they are the right ones.
type blob struct {
	ctx        context.Context //nolint:containedctx // a reader's calls have none
	repository *Repository
	desc       v1.Descriptor

	body    io.ReadCloser
	attempt context.Context // of the connection; its cause says why it was given up
	giveUp  context.CancelCauseFunc

	read     int64 // bytes handed out
	got      int64 // of them since the last failure
	failures int   // without progress
	whole    bool  // the registry does not deliver parts
	shortAt  int64 // where it last came to an end too early, plus one
}

var (
	errStalled = errors.New("nothing came for too long")
	errSize    = errors.New("its size is not the one that the manifest gives")
)

// Read is io.Reader's.
func (b *blob) Read(p []byte) (int, error) {
	for {
		left := b.desc.Size - b.read
		if left == 0 {
			return 0, b.end()
		}
		n, err := b.watched(p[:min(int64(len(p)), left)])
		b.read, b.got = b.read+int64(n), b.got+int64(n)
		if n > 0 || len(p) == 0 {
			return n, nil // an error comes again with the next call
		}
		if err == nil {
			continue
		}
		if errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
			err = b.endedEarly()
		}
		if err := b.resume(err); err != nil {
			return 0, b.repository.fault(b.ctx, err)
		}
	}
}

// endedEarly returns the error of a blob that is shorter than it should be, or of a connection that ended: the former
// ends there again.
func (b *blob) endedEarly() error {
	if b.shortAt == b.read+1 {
		return b.wrongSize()
	}
	b.shortAt = b.read + 1
	return io.ErrUnexpectedEOF
}

// end is io.EOF, unless the registry has more than the descriptor says.
func (b *blob) end() error {
	if b.body == nil {
		return io.EOF
	}
	n, _ := b.watched(make([]byte, 1)) // how the connection ends does not matter any more
	_ = b.Close()
	if n > 0 {
		return b.wrongSize()
	}
	return io.EOF
}

func (b *blob) wrongSize() error {
	return fault.Authorf("image %s: blob %s: %w", b.repository.ref.Asked, b.desc.Digest, errSize)
}

// Close is io.Closer's.
func (b *blob) Close() error {
	b.giveUp(context.Canceled)
	if b.body == nil {
		return nil
	}
	err := b.body.Close()
	b.body = nil
	return err
}

// watched reads once, and not for ever.
func (b *blob) watched(p []byte) (int, error) {
	watch := time.AfterFunc(b.repository.silence, func() { b.giveUp(errStalled) })
	n, err := b.body.Read(p)
	watch.Stop()
	if err != nil && errors.Is(context.Cause(b.attempt), errStalled) {
		err = errStalled
	}
	return n, err
}

// resume opens the blob again where it broke, or returns why not.
func (b *blob) resume(cause error) error {
	for {
		_ = b.Close()
		if b.got >= blobProgress {
			b.failures = 0
		}
		b.got = 0
		b.failures++
		if b.ctx.Err() != nil || b.failures == blobTries || !b.repository.transient(cause) || !b.repository.pause(b.ctx, b.failures) {
			return cause
		}
		if cause = b.connect(); cause == nil {
			return nil
		}
	}
}

// connect asks for what is missing.
func (b *blob) connect() (err error) {
	b.attempt, b.giveUp = context.WithCancelCause(b.ctx)
	defer func() {
		if err != nil {
			_ = b.Close()
		}
	}()
	header := http.Header{}
	ranged := b.read > 0 && !b.whole
	if ranged {
		header.Set("Range", fmt.Sprintf("bytes=%d-", b.read))
	}
	watch := time.AfterFunc(2*b.repository.silence, func() { b.giveUp(errSlow) })
	defer watch.Stop()
	resp, err := b.repository.send(b.attempt, http.MethodGet, "blobs", b.desc.Digest.String(), header, //nolint:bodyclose // Close closes it
		http.StatusOK, http.StatusPartialContent, http.StatusRequestedRangeNotSatisfiable)
	if err != nil {
		if errors.Is(context.Cause(b.attempt), errSlow) {
			err = errSlow
		}
		return err
	}
	watch.Stop()
	b.body = resp.Body
	switch {
	case resp.StatusCode == http.StatusOK:
		return b.skip()
	case ranged && resp.StatusCode == http.StatusPartialContent && startsAt(resp, b.read):
		return nil
	case ranged && resp.StatusCode == http.StatusRequestedRangeNotSatisfiable && endsAt(resp, b.read):
		return b.wrongSize()
	case !ranged:
		return fmt.Errorf("it answers with status %d to who asks for all", resp.StatusCode)
	}
	b.whole = true
	_ = b.Close()
	return b.connect()
}

// startsAt and endsAt read Content-Range (RFC 9110, 14.4): "bytes 5-9/10" and "bytes */10".
func startsAt(resp *http.Response, offset int64) bool {
	var first, last int64
	n, err := fmt.Sscanf(resp.Header.Get("Content-Range"), "bytes %d-%d/", &first, &last)
	return err == nil && n == 2 && first == offset
}

func endsAt(resp *http.Response, size int64) bool {
	var total int64
	n, err := fmt.Sscanf(resp.Header.Get("Content-Range"), "bytes */%d", &total)
	return err == nil && n == 1 && total == size
}

// skip reads over what was handed out already.
func (b *blob) skip() error {
	buffer := make([]byte, 32<<10)
	for left := b.read; left > 0; {
		n, err := b.watched(buffer[:min(left, int64(len(buffer)))])
		left -= int64(n)
		if err != nil && left > 0 {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return err
		}
	}
	return nil
}
