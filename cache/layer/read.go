package layer

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"sync/atomic"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/airlock-ci/airlock/cache/space"
	"github.com/airlock-ci/airlock/cache/untrusted"
	"github.com/airlock-ci/airlock/internal/fault"
)

// Read hands a layer's uncompressed tar to consume and verifies both digests. What failed is told
// apart by them: the transfer (the system's), or the image itself (the author's).
func Read(ctx context.Context, l Wanted, left *space.Budget, consume func(io.Reader) error) error {
	blob, err := l.Open(ctx)
	if err != nil {
		return err
	}
	defer blob.Close()
	compressed := &meter{from: untrusted.Interruptible(ctx, blob), hash: sha256.New(), limit: l.Blob.Size, count: l.Transferred}
	if h, err := v1.Hasher(l.Blob.Digest.Algorithm); err == nil {
		compressed.hash = h
	}
	content := &meter{hash: sha256.New(), limit: left.MaxTar(), excess: left.TarTooLong}
	failure := readContent(compressed, content, consume)
	if classified := (*fault.Error)(nil); errors.As(compressed.err, &classified) {
		return compressed.err // without what became of it on its way
	}
	if classified := (*fault.Error)(nil); errors.As(failure, &classified) {
		return failure
	}
	_, _ = io.Copy(io.Discard, compressed) // its error is in compressed.err
	want := l.Blob.Digest
	switch {
	case ctx.Err() != nil:
		return fault.Systemf("interrupted: %w", context.Cause(ctx))
	case compressed.err != nil:
		return fault.Systemf("the transfer failed: %s", untrusted.WithoutURL(compressed.err))
	case want.Hex != "" && compressed.sum() != want.Hex:
		return untrusted.OtherContent(l.Blob)
	case failure != nil:
		return fault.Authorf("the image is broken: %w", failure)
	case "sha256:"+content.sum() != l.DiffID:
		return fault.Authorf("the image is broken: the content's digest is sha256:%s", content.sum())
	}
	return nil
}

func readContent(compressed, content *meter, consume func(io.Reader) error) error {
	plain, err := untrusted.Decompress(compressed)
	if err != nil {
		return err
	}
	defer plain.Close()
	content.from = plain
	if err := consume(content); err != nil {
		return err
	}
	// What follows the tar's end belongs to the digest.
	if _, err := io.Copy(io.Discard, content); err != nil {
		return fmt.Errorf("decompressing: %w", err)
	}
	return nil
}

// meter hashes and counts what is read through it, and remembers why reading failed.
type meter struct {
	from   io.Reader
	hash   hash.Hash
	limit  int64        // 0: none
	excess func() error // what exceeding it means; nil: the transfer is wrong
	read   int64
	count  *atomic.Int64 // also counted there, if not nil
	err    error         // other than io.EOF
}

// Read is io.Reader's.
func (m *meter) Read(p []byte) (int, error) {
	if m.err != nil {
		return 0, m.err
	}
	n, err := m.from.Read(p)
	m.hash.Write(p[:n])
	m.read += int64(n)
	if m.count != nil {
		m.count.Add(int64(n))
	}
	if m.limit > 0 && m.read > m.limit {
		err = fmt.Errorf("more than %d bytes came", m.limit)
		if m.excess != nil {
			err = m.excess()
		}
	}
	if err != nil && !errors.Is(err, io.EOF) {
		m.err = err
	}
	return n, err
}

func (m *meter) sum() string { return hex.EncodeToString(m.hash.Sum(nil)) }
