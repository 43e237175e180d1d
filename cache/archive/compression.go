package archive

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/airlock-ci/airlock/cache/untrusted"
	"github.com/airlock-ci/airlock/internal/fault"
)

// otherCompressions are those that are not read here, by how they begin.
var otherCompressions = []struct{ magic, name, program string }{
	{"BZh", "bzip2", "bzip2"}, {"\xfd7zXZ\x00", "xz", "xz"}, {"\x04\x22\x4d\x18", "lz4", "lz4"}, {"LZIP", "lzip", "lzip"}, {"\x1f\x9d", "compress", "gzip"},
	{"PK\x03\x04", "zip", "funzip"},
}

// uncompressed reads a tar that may be compressed, whatever its name says.
func uncompressed(from io.Reader) (io.ReadCloser, error) {
	buffered := bufio.NewReader(from)
	head, _ := buffered.Peek(6)
	for _, c := range otherCompressions {
		if strings.HasPrefix(string(head), c.magic) {
			return nil, fault.WithRemedy(fault.Adminf("the archive is compressed with %s; gzip, zstd or none are read here", c.name),
				fmt.Sprintf("decompress it first: %s -dc FILE | airlock image import NAME -", c.program))
		}
	}
	return untrusted.Decompress(buffered)
}

// openUncompressed opens a tar that may be compressed.
func openUncompressed(path string) (io.ReadCloser, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	plain, err := uncompressed(file)
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return struct {
		io.Reader
		io.Closer
	}{plain, closers{plain, file}}, nil
}

// closers are closed together.
type closers []io.Closer

// Close is io.Closer's.
func (c closers) Close() error {
	var errs []error
	for _, one := range c {
		errs = append(errs, one.Close())
	}
	return errors.Join(errs...)
}
