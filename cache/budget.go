package cache

import (
	"context"
	"fmt"
	"io"
	"sync"

	"github.com/airlock-ci/airlock/internal/bytesize"
	"github.com/airlock-ci/airlock/internal/fault"
)

// budget is what unpacking one layer may use up: a part of what its image may, and of the room that the cache has.
type budget struct {
	ctx   context.Context //nolint:containedctx // of the one transfer that it is made for
	image *imageBudget
	claim *claim // nil: the room is not asked
	taken Use
}

// imageBudget is what one image may unpack to. Its layers share it, those included that were here before.
type imageBudget struct {
	limit Use

	mu      sync.Mutex
	used    Use
	refused bool
	counted *counters // nil: nobody counts
}

// newBudget returns the budget of an image with these limits; 0 is none.
func newBudget(bytes, entries int64) *budget {
	return &budget{image: &imageBudget{limit: Use{Bytes: bytes, Inodes: entries}}}
}

// forLayer returns the budget of one layer, which takes its room by a claim.
func (b *budget) forLayer(ctx context.Context, claim *claim) *budget {
	return &budget{ctx: ctx, image: b.image, claim: claim}
}

// take fails when the image becomes too large, as its author's, or the file system too full. What it takes may be
// written until the next call.
func (b *budget) take(more Use) error {
	if b.claim != nil {
		b.claim.settle()
	}
	return b.takeAlso(more)
}

// takeAlso takes more while what was taken before is yet to be written.
func (b *budget) takeAlso(more Use) error {
	if err := b.image.take(more); err != nil {
		return err
	}
	b.taken = b.taken.plus(more)
	if b.claim == nil {
		return nil
	}
	return b.claim.take(b.ctx, more)
}

// giveBack undoes what was taken: the layer did not come about, and may be transferred again.
func (b *budget) giveBack() {
	b.image.mu.Lock()
	defer b.image.mu.Unlock()
	b.image.used = b.image.used.minus(b.taken)
	b.taken = Use{}
}

// writing passes content on that is written as soon as it was read.
func (b *budget) writing(content io.Reader) io.Reader {
	if b.claim == nil {
		return content
	}
	return &beingWritten{content, b.claim}
}

type beingWritten struct {
	from  io.Reader
	claim *claim
}

// Read is io.Reader's.
func (w *beingWritten) Read(p []byte) (int, error) {
	n, err := w.from.Read(p)
	w.claim.wrote(Use{Bytes: int64(n)})
	return n, err
}

// maxTar bounds a layer's uncompressed tar: what it unpacks to, and a generous 2 KiB for each header. Bytes
// that unpack to nothing cost time all the same. 0: no bound.
func (b *budget) maxTar() int64 {
	limit := b.image.limit
	if limit.Bytes == 0 || limit.Inodes == 0 {
		return 0
	}
	return limit.Bytes + limit.Inodes<<11
}

// take adds to what the image uses.
func (i *imageBudget) take(more Use) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	used := i.used.plus(more)
	if more.Bytes < 0 || used.Bytes < i.used.Bytes || used.exceeds(i.limit) { // a size near the largest number wraps around
		return i.refusal(used)
	}
	i.used = used
	return nil
}

// refusal says which limit an image exceeds, and counts it once. The caller holds the lock.
func (i *imageBudget) refusal(used Use) error {
	if !i.refused && i.counted != nil {
		i.counted.tooLarge.Add(1)
	}
	i.refused = true
	if i.limit.Inodes > 0 && used.Inodes > i.limit.Inodes {
		return fault.WithRemedy(fault.Authorf("the image holds more than %d files", i.limit.Inodes),
			"make the image smaller; the administrator can raise image_inode_limit in [cache]")
	}
	return tooLarge(i.limit.Bytes)
}

func tooLarge(limit int64) error {
	return fault.WithRemedy(fault.Authorf("the image unpacks to more than %s", bytesize.Format(limit)),
		"make the image smaller; the administrator can raise image_size_limit in [cache]")
}

// tarTooLong says that a layer's tar has more bytes than that of any image within its limits.
func (b *budget) tarTooLong() error {
	b.image.mu.Lock()
	defer b.image.mu.Unlock()
	return fmt.Errorf("more than %d bytes came: %w", b.maxTar(), b.image.refusal(Use{Bytes: b.maxTar()}))
}
