package service

import (
	"math/rand/v2"
	"strings"
	"sync"
	"time"
)

// variation is where the real service leaves something open. What a client may not rely on changes from one seed to
// another, and from one question to the next.
type variation struct {
	mu     sync.Mutex
	random *rand.Rand
}

func newVariation(seed uint64) *variation {
	return &variation{random: rand.New(rand.NewPCG(seed, 0))}
}

// chance is true half the time. What it is asked for is for the reader.
func (v *variation) chance(string) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.random.IntN(2) == 0
}

// delay is how long something takes that may take its time: mostly nothing, never more than some milliseconds.
func (v *variation) delay(string) time.Duration {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.random.IntN(3) > 0 {
		return 0
	}
	return time.Duration(v.random.IntN(15)) * time.Millisecond
}

// guid spells a GUID in upper or lower case: nothing says which one a service returns.
func (v *variation) guid(id string) string {
	if v.chance("case of a GUID") {
		return strings.ToUpper(id)
	}
	return strings.ToLower(id)
}

// newGUID makes one up.
func (v *variation) newGUID() GUID {
	v.mu.Lock()
	defer v.mu.Unlock()
	var g GUID
	for i := range g {
		g[i] = byte(v.random.IntN(256))
	}
	g[7] = g[7]&0x0f | 0x40 // version 4
	g[8] = g[8]&0x3f | 0x80
	return g
}
