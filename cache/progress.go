package cache

import (
	"time"

	"github.com/airlock-ci/airlock/internal/bytesize"
	"github.com/airlock-ci/airlock/internal/joblog"
)

// report tells one waiter's log how a pull gets on. A log that blocks holds back nobody else.
type report struct {
	to        *joblog.Log
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
		return joblog.FirstPause / 20
	case !r.announced:
		r.announce(missing)
		r.pause = joblog.FirstPause
	default:
		progress := bytesize.Format(r.pull.done.Load())
		if total := r.pull.total.Load(); total > 0 { // an archive does not say how large its layers are
			progress += " of " + bytesize.Format(total)
		}
		r.to.Progress("Pulling image %s: %s", r.image, progress)
		r.pause = min(2*r.pause, joblog.MaxPause)
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
	r.to.Progress("Pulling image %s (%d %s%s)", r.image, missing, layers, size)
}

// end writes the closing line of a pull that succeeded.
func (r *report) end() {
	missing := r.pull.missing.Load()
	if !r.announced {
		r.announce(missing)
	}
	if missing > 0 {
		r.to.Progress("Pulled image %s in %.1f s, %s", r.image, time.Since(r.pull.started).Seconds(), r.pull.content.Digest)
	}
}
