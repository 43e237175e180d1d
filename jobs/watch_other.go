//go:build !linux && !windows

package jobs

// processWatch is not implemented here: a job whose runner died ends by the idle time-out.
type processWatch struct{}

func watchProcess(int) *processWatch { return &processWatch{} }
func (w *processWatch) dead() bool   { return false }
func (w *processWatch) close()       {}
