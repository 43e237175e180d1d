package cache

import (
	"fmt"
	"io"
	"time"

	"github.com/airlock-ci/airlock/internal/bytesize"
)

// Lines of progress come a while apart: job logs keep every line for ever.
const (
	firstProgress = 2 * time.Second
	maxProgress   = 30 * time.Second
)

// report writes the progress of a pull to one waiter's log. A log that blocks holds back nobody else.
type report struct {
	to        io.Writer
	pull      *pull
	image     string
	announced bool
	pause     time.Duration
}

// tick writes the line that is due, if any, and returns when to be called again.
func (r *report) tick() time.Duration {
	missing := r.pull.missing.Load()
	switch {
	case missing < 0: // the image's configuration is on its way
		return firstProgress / 20
	case !r.announced:
		r.announce(missing)
		r.pause = firstProgress
	default:
		progress := bytesize.Format(r.pull.done.Load())
		if total := r.pull.total.Load(); total > 0 { // an archive does not say how large its layers are
			progress += " of " + bytesize.Format(total)
		}
		r.line("Pulling image %s: %s", r.image, progress)
		r.pause = min(2*r.pause, maxProgress)
	}
	return r.pause
}

func (r *report) announce(missing int64) {
	r.announced = true
	if missing == 0 {
		return
	}
	layers := "layers"
	if missing == 1 {
		layers = "layer"
	}
	size := ""
	if total := r.pull.total.Load(); total > 0 {
		size = ", " + bytesize.Format(total)
	}
	r.line("Pulling image %s (%d %s%s)", r.image, missing, layers, size)
}

// end writes the closing line of a pull that succeeded.
func (r *report) end() {
	missing := r.pull.missing.Load()
	if !r.announced {
		r.announce(missing)
	}
	if missing > 0 {
		r.line("Pulled image %s in %.1f s, %s", r.image, time.Since(r.pull.started).Seconds(), r.pull.content.digest)
	}
}

func (r *report) line(format string, args ...any) {
	if r.to != nil {
		_, _ = fmt.Fprintf(r.to, format+"\n", args...) // a log that is gone is no reason to fail
	}
}
