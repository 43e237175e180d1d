package keylock

import (
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestKeysExcludeEachOtherAndNoOthers(t *testing.T) {
	var locks Locks
	unlock := locks.Lock("a")
	locks.Lock("b")() // another key does not wait
	entered := make(chan struct{})
	var all sync.WaitGroup
	count := 0
	for range 8 {
		all.Go(func() {
			defer locks.Lock("a")()
			if count++; count == 1 {
				close(entered)
			}
		})
	}
	select {
	case <-entered:
		require.Fail(t, "the lock is held")
	case <-time.After(20 * time.Millisecond):
	}
	unlock()
	all.Wait()
	require.Equal(t, 8, count)
	require.Empty(t, locks.held, "nothing of a key is kept")
}
