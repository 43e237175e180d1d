package jobs

import (
	"context"
	"time"

	"github.com/airlock-ci/airlock/api"
	"github.com/airlock-ci/airlock/isolation"
)

const (
	sigkill = 9
	sigterm = 15
	// signalTimeout bounds the request to send a signal, not the signal's effect.
	signalTimeout = 10 * time.Second
)

// steer passes on what the caller asks of a running process until it has ended. A graceful end gets the
// administrator's time, then force; a caller that vanished gets force at once, because nobody waits for
// the output any more. Only this process's tree is ended: the sandbox stays for the stages that follow. It returns
// whether force was needed because the process did not end in time.
func (sess *session) steer(ctx context.Context, process isolation.Process, streams api.Streams, ended <-chan struct{}) (forced bool) {
	signal := func(number int) {
		ctx, cancel := context.WithTimeoutCause(context.WithoutCancel(ctx), signalTimeout, context.DeadlineExceeded)
		defer cancel()
		if err := process.Signal(ctx, number); err != nil {
			select {
			case <-ended:
			default:
				sess.log.Warn().Err(err).Int("signal", number).Msg("signal not delivered")
			}
		}
	}
	var force <-chan time.Time
	gone, signals, resizes := ctx.Done(), streams.Signals, streams.Resizes
	for {
		select {
		case <-ended:
			return forced
		case <-gone:
			sess.log.Info().AnErr("cause", context.Cause(ctx)).Msg("the caller is gone, ending what it ran")
			gone = nil
			signal(sigkill)
		case <-force:
			sess.log.Info().Dur("after_ms", sess.grace).Msg("the graceful end took too long")
			force, forced = nil, true
			signal(sigkill)
		case number, open := <-signals:
			if !open {
				signals = nil
				continue
			}
			signal(number)
			if number == sigterm && force == nil {
				force = time.After(sess.grace)
			}
		case size, open := <-resizes:
			if !open {
				resizes = nil
				continue
			}
			rows, columns := size.Characters()
			if err := process.Resize(ctx, rows, columns); err != nil {
				sess.log.Debug().Err(err).Msg("terminal not resized")
			}
		}
	}
}
