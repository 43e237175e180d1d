package bytesize

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestFormat(t *testing.T) {
	for n, want := range map[int64]string{
		0: "0 B", 1023: "1023 B", 1024: "1 KiB", 1536: "1.5 KiB", 1<<20 - 1: "1 MiB", 47395635: "45.2 MiB",
		20 << 30: "20 GiB", 5 << 40: "5 TiB", 5 << 50: "5 PiB", math.MaxInt64: "8 EiB",
	} {
		require.Equal(t, want, Format(n))
	}
}
