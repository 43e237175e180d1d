package waiting

import (
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestCall(t *testing.T) {
	broken := errors.New("broken")
	value, answered, err := Call(time.Minute, func() (int, error) { return 7, broken }, nil)
	require.Equal(t, 7, value)
	require.True(t, answered)
	require.ErrorIs(t, err, broken)

	until, told := make(chan struct{}), make(chan int)
	_, answered, err = Call(time.Millisecond, func() (int, error) { <-until; return 8, nil }, func(n int, err error) { told <- n })
	require.False(t, answered)
	require.NoError(t, err)
	close(until)
	require.Equal(t, 8, <-told)
}
