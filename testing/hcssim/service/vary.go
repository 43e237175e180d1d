package service

import (
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"strings"
	"sync"
	"time"
)

// variation is where the real service leaves something open. What a client may not rely on changes from one seed to
// another, and from one question to the next. An answer depends on the seed, the question, and how often it was asked
// before, and not on what else is asked: so a seed repeats it, whatever comes first on a loaded machine.
type variation struct {
	seed uint64

	mu    sync.Mutex
	asked map[string]int
}

func newVariation(seed uint64) *variation { return &variation{seed: seed, asked: map[string]int{}} }

// draw returns where the answer to a question is drawn from.
func (v *variation) draw(what string) *rand.Rand {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.asked[what]++
	sum := fnv.New64a()
	fmt.Fprintln(sum, what, v.asked[what])
	return rand.New(rand.NewPCG(v.seed, sum.Sum64()))
}

// chance is true half the time.
func (v *variation) chance(what string) bool { return v.draw(what).IntN(2) == 0 }

// delay is how long something takes that may take its time: mostly nothing, never more than some milliseconds.
func (v *variation) delay(what string) time.Duration {
	random := v.draw(what)
	if random.IntN(3) > 0 {
		return 0
	}
	return time.Duration(random.IntN(15)) * time.Millisecond
}

// guid spells a GUID in upper or lower case: nothing says which one a service returns.
func (v *variation) guid(id string) string {
	if v.chance("case of " + strings.ToLower(id)) {
		return strings.ToUpper(id)
	}
	return strings.ToLower(id)
}

// newGUID makes one up, for something.
func (v *variation) newGUID(of string) GUID {
	random := v.draw("GUID of " + of)
	var g GUID
	for i := range g {
		g[i] = byte(random.IntN(256))
	}
	g[7] = g[7]&0x0f | 0x40 // version 4
	g[8] = g[8]&0x3f | 0x80
	return g
}
