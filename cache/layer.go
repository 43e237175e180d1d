package cache

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"sync/atomic"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"github.com/airlock-ci/airlock/internal/fault"
)

// wantedLayer is one layer to fetch.
type wantedLayer struct {
	source
	diffID string // of the content
	id     string // its name here
	// below are the ids of the layers below it, lowest first.
	below []string
	// awaitBelow waits until those are there.
	awaitBelow func(context.Context) error
}

// storedLayer is what is known of a layer that is here.
type storedLayer struct {
	use     Use
	omitted omitted
}

// layerIDs names layers as the OCI image specification's chain ids do: by their content and that of those below. The
// same layer may show another tree above others: directories that it does not list are as the layers below have them,
// and a layer of Windows is only good above those that it was imported upon.
func layerIDs(diffIDs []v1.Hash) []string {
	ids := make([]string, len(diffIDs))
	for i, id := range diffIDs {
		ids[i] = id.String()
		if i > 0 {
			sum := sha256.Sum256([]byte(ids[i-1] + " " + id.String()))
			ids[i] = "sha256:" + hex.EncodeToString(sum[:])
		}
	}
	return ids
}

// fetchLayer makes one layer present for p's repository and returns what it is like. Pulls that need the
// same layer at the same time transfer it once.
func (c *Cache) fetchLayer(ctx context.Context, p *pull, l wantedLayer, left *budget) (storedLayer, error) {
	for {
		if stored, usable := c.store.usable(l.id, p.repo); usable {
			return stored, nil
		}
		flight, led := c.layers.join(l.id, func() struct{} { return struct{}{} },
			func(ctx context.Context, _ struct{}) error { return c.transferLayer(ctx, p, l, left) })
		err := c.layers.wait(ctx, l.id, flight, time.Hour, func() time.Duration { return time.Hour })
		if err != nil && (led || ctx.Err() != nil) {
			return storedLayer{}, err
		}
		// Somebody else's transfer may have failed for his own reasons, or not count for this repository.
	}
}

// transferLayer reads a layer from its origin and stores it; if it is here already, but only by way of a
// private image of another repository, reading it through proves that this repository has it too.
func (c *Cache) transferLayer(ctx context.Context, p *pull, l wantedLayer, left *budget) (err error) {
	claim := c.room.claim()
	defer claim.end()
	left = left.forLayer(ctx, claim)
	defer func() {
		if err != nil {
			left.giveBack()
		}
	}()
	if c.store.has(l.id) {
		if err := readLayer(ctx, p, l, left, func(io.Reader) error { return nil }); err != nil {
			return fmt.Errorf("layer %s: %w", l.diffID, err)
		}
		c.store.grant(l.id, storedLayer{}, p.repo, p.private)
		return nil
	}
	stored, err := c.storeLayer(ctx, p, l, left)
	if err != nil {
		return err
	}
	claim.end()
	c.store.grant(l.id, stored, p.repo, p.private)
	if ctx.Err() != nil { // nobody waits for it, and its pull no longer holds it
		c.dropUnnamed()
	}
	return nil
}

// readLayer hands a layer's uncompressed tar to consume and verifies both digests. What failed is told
// apart by them: the transfer (the system's), or the image itself (the author's).
func readLayer(ctx context.Context, p *pull, l wantedLayer, left *budget, consume func(io.Reader) error) error {
	blob, err := l.open(ctx)
	if err != nil {
		return err
	}
	defer blob.Close()
	compressed := &meter{from: &interruptible{ctx: ctx, from: blob}, hash: sha256.New(), limit: l.blob.Size, count: &p.done}
	if h, err := v1.Hasher(l.blob.Digest.Algorithm); err == nil {
		compressed.hash = h
	}
	content := &meter{hash: sha256.New(), limit: left.maxTar(), excess: left.tarTooLong}
	failure := readContent(compressed, content, consume)
	if classified := (*fault.Error)(nil); errors.As(compressed.err, &classified) {
		return compressed.err // without what became of it on its way
	}
	if classified := (*fault.Error)(nil); errors.As(failure, &classified) {
		return failure
	}
	_, _ = io.Copy(io.Discard, compressed) // its error is in compressed.err
	want := l.blob.Digest
	switch {
	case ctx.Err() != nil:
		return fault.Systemf("interrupted: %w", context.Cause(ctx))
	case compressed.err != nil:
		return fault.Systemf("the transfer failed: %s", withoutURL(compressed.err))
	case want.Hex != "" && compressed.sum() != want.Hex:
		return otherContent(l.blob)
	case failure != nil:
		return fault.Authorf("the image is broken: %w", failure)
	case "sha256:"+content.sum() != l.diffID:
		return fault.Authorf("the image is broken: the content's digest is sha256:%s", content.sum())
	}
	return nil
}

func readContent(compressed, content *meter, consume func(io.Reader) error) error {
	plain, err := decompress(compressed)
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

// maxZstdWindow is what decompressing zstd may hold in memory, in bytes: the format's recommended maximum
// for interchange is 8 MiB, "--long" goes to 128 MiB.
const maxZstdWindow = 128 << 20

// decompress goes by the content's first bytes: media types lie.
func decompress(r io.Reader) (io.ReadCloser, error) {
	buffered := bufio.NewReaderSize(r, 256<<10)
	magic, _ := buffered.Peek(4)
	switch {
	case len(magic) >= 2 && magic[0] == 0x1f && magic[1] == 0x8b:
		unzipped, err := gzip.NewReader(buffered)
		if err != nil {
			return nil, fmt.Errorf("decompressing gzip: %w", err)
		}
		return unzipped, nil
	case string(magic) == "\x28\xb5\x2f\xfd":
		decoder, err := zstd.NewReader(buffered, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxZstdWindow))
		if err != nil {
			return nil, fmt.Errorf("decompressing zstd: %w", err)
		}
		return decoder.IOReadCloser(), nil
	default:
		return io.NopCloser(buffered), nil
	}
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
