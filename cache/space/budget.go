package space

import (
	"context"
	"fmt"
	"io"
	"sync"
	"sync/atomic"

	"github.com/airlock-ci/airlock/internal/bytesize"
	"github.com/airlock-ci/airlock/internal/fault"
)

// Budget is what unpacking one layer may use up: a part of what its image may, and of the room that the cache has.
type Budget struct {
	ctx   context.Context //nolint:containedctx // of the one transfer that it is made for
	image *imageBudget
	claim *Claim // nil: the room is not asked
	taken Use
}

// imageBudget is what one image may unpack to. Its layers share it, those included that were here before.
type imageBudget struct {
	limit    Use
	refusals *atomic.Int64 // nil: nobody counts

	mu      sync.Mutex
	used    Use
	refused bool
}

// NewBudget returns the budget of an image with this limit, in which 0 is none. If it is exceeded, refusals counts that
// once; nil: nobody counts.
func NewBudget(limit Use, refusals *atomic.Int64) *Budget {
	return &Budget{image: &imageBudget{limit: limit, refusals: refusals}}
}

// ForLayer returns the budget of one layer, which takes its room by a claim.
func (b *Budget) ForLayer(ctx context.Context, claim *Claim) *Budget {
	return &Budget{ctx: ctx, image: b.image, claim: claim}
}

// Take fails when the image becomes too large, as its author's, or the file system too full. What it takes may be
// written until the next call.
func (b *Budget) Take(more Use) error {
	if b.claim != nil {
		b.claim.settle()
	}
	return b.TakeAlso(more)
}

// TakeAlso takes more while what was taken before is yet to be written.
func (b *Budget) TakeAlso(more Use) error {
	if err := b.image.take(more); err != nil {
		return err
	}
	b.taken = b.taken.Plus(more)
	if b.claim == nil {
		return nil
	}
	return b.claim.Take(b.ctx, more)
}

// Check fails when an image that takes so much in all is too large.
func (b *Budget) Check(all Use) error {
	if !all.Exceeds(b.image.limit) {
		return nil
	}
	b.image.mu.Lock()
	defer b.image.mu.Unlock()
	return b.image.refusal(all)
}

// GiveBack undoes what was taken: the layer did not come about, and may be transferred again.
func (b *Budget) GiveBack() {
	b.image.mu.Lock()
	defer b.image.mu.Unlock()
	b.image.used = b.image.used.Minus(b.taken)
	b.taken = Use{}
}

// Writing passes content on that is written as soon as it was read.
func (b *Budget) Writing(content io.Reader) io.Reader {
	if b.claim == nil {
		return content
	}
	return &beingWritten{content, b.claim}
}

type beingWritten struct {
	from  io.Reader
	claim *Claim
}

// Read is io.Reader's.
func (w *beingWritten) Read(p []byte) (int, error) {
	n, err := w.from.Read(p)
	w.claim.wrote(Use{Bytes: int64(n)})
	return n, err
}

// MaxTar bounds a layer's uncompressed tar: what it unpacks to, and a generous 2 KiB for each header. Bytes
// that unpack to nothing cost time all the same. 0: no bound.
func (b *Budget) MaxTar() int64 {
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
	used := i.used.Plus(more)
	if more.Bytes < 0 || used.Bytes < i.used.Bytes || used.Exceeds(i.limit) { // a size near the largest number wraps around
		return i.refusal(used)
	}
	i.used = used
	return nil
}

// refusal says which limit an image exceeds, and counts it once. The caller holds the lock.
func (i *imageBudget) refusal(used Use) error {
	if !i.refused && i.refusals != nil {
		i.refusals.Add(1)
	}
	i.refused = true
	if i.limit.Inodes > 0 && used.Inodes > i.limit.Inodes {
		return fault.WithRemedy(fault.Authorf("the image holds more than %d files", i.limit.Inodes),
			"make the image smaller; the administrator can raise image_inode_limit in [cache]")
	}
	return TooLarge(i.limit.Bytes)
}

// TooLarge refuses an image that unpacks to more than so many bytes.
func TooLarge(limit int64) error {
	return fault.WithRemedy(fault.Authorf("the image unpacks to more than %s", bytesize.Format(limit)),
		"make the image smaller; the administrator can raise image_size_limit in [cache]")
}

// TarTooLong says that a layer's tar has more bytes than that of any image within its limits.
func (b *Budget) TarTooLong() error {
	b.image.mu.Lock()
	defer b.image.mu.Unlock()
	return fmt.Errorf("more than %d bytes came: %w", b.MaxTar(), b.image.refusal(Use{Bytes: b.MaxTar()}))
}
