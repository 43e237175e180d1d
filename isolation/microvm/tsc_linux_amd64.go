package microvm

import "time"

// readTSC reads the processor's time stamp counter.
func readTSC() uint64

// tscSample is how long the counter is measured.
const tscSample = 50 * time.Millisecond

// tscKHz is the frequency of the host's time stamp counter. An emulated machine has the same counter and nothing
// to measure it against, and without a frequency it has no clock; KVM tells its guests by itself.
func tscKHz() int64 {
	began, first := time.Now(), readTSC()
	time.Sleep(tscSample)
	return int64(float64(readTSC()-first) / (float64(time.Since(began)) / float64(time.Millisecond)))
}
