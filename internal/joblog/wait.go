package joblog

import "time"

// The pace at which a wait is told.
const (
	// FirstPause is how long a wait lasts before it is worth a line.
	FirstPause = 2 * time.Second
	// MaxPause is the longest time between two lines of one wait: pauses double until then.
	MaxPause = 30 * time.Second
)

// While does some work and returns its error. It says what is done as progress if that takes longer than a moment, and
// again now and then until the work has ended.
func (l *Log) While(what string, work func() error) error {
	ended, silent := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(silent)
		for pause := FirstPause; ; pause = min(2*pause, MaxPause) {
			select {
			case <-ended:
				return
			case <-time.After(pause):
				l.Progress("%s", what)
			}
		}
	}()
	defer func() {
		close(ended)
		<-silent // nothing is said after the end
	}()
	return work()
}
