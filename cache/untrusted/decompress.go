package untrusted

import (
	"bufio"
	"fmt"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// maxZstdWindow is what decompressing zstd may hold in memory, in bytes: the format's recommended maximum
// for interchange is 8 MiB, "--long" goes to 128 MiB.
const maxZstdWindow = 128 << 20

// Decompress goes by the content's first bytes: media types lie.
func Decompress(r io.Reader) (io.ReadCloser, error) {
	buffered := bufio.NewReaderSize(r, 256<<10)
	magic, _ := buffered.Peek(4)
	switch {
	case len(magic) >= 2 && magic[0] == 0x1f && magic[1] == 0x8b:
		unzipped, err := gzip.NewReader(buffered)
		if err != nil {
			return nil, fmt.Errorf("decompressing gzip: %w", err)
		}
		return unzipped, nil
	case string(magic) == "\x28\xb5\x2f\xfd":
		decoder, err := zstd.NewReader(buffered, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxZstdWindow))
		if err != nil {
			return nil, fmt.Errorf("decompressing zstd: %w", err)
		}
		return decoder.IOReadCloser(), nil
	default:
		return io.NopCloser(buffered), nil
	}
}
