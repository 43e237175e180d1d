package layer

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/require"

	"github.com/airlock-ci/airlock/cache/space"
	"github.com/airlock-ci/airlock/internal/fault"
)

// entry is one of a tar: a file of content, unless its header says otherwise.
type entry struct {
	header  tar.Header
	content string
}

func tarOf(t *testing.T, entries ...entry) []byte {
	t.Helper()
	var buffer bytes.Buffer
	w := tar.NewWriter(&buffer)
	for _, e := range entries {
		e.header.Size = int64(len(e.content))
		require.NoError(t, w.WriteHeader(&e.header))
		_, err := io.WriteString(w, e.content)
		require.NoError(t, err)
	}
	require.NoError(t, w.Close())
	return buffer.Bytes()
}

func file(name, content string) entry { return entry{tar.Header{Name: name, Mode: 0o644}, content} }

// TestGuard: what is good passes byte for byte, to the last one behind the tar's end; the rest is refused before the
// importer sees it.
func TestGuard(t *testing.T) {
	read := func(content []byte) ([]byte, error) {
		return io.ReadAll(newGuard(bytes.NewReader(content), space.NewBudget(space.Use{Bytes: 1 << 20, Inodes: 5}, nil)))
	}
	records := map[string]string{"MSWINDOWS.rawsd": strings.Repeat("A", 3000)}
	good := append(tarOf(t, entry{tar.Header{Name: "Files/", Typeflag: tar.TypeDir, Mode: 0o755}, ""},
		entry{tar.Header{Name: "Files/a", Mode: 0o644, PAXRecords: records}, strings.Repeat("content ", 100_000)}, file("Files/empty", "")),
		make([]byte, 100_000)...)
	got, err := read(good)
	require.NoError(t, err)
	require.True(t, bytes.Equal(good, got))
	got, err = io.ReadAll(newGuard(iotest.OneByteReader(bytes.NewReader(good)), space.NewBudget(space.Use{Bytes: 1 << 20, Inodes: 5}, nil)))
	require.NoError(t, err)
	require.True(t, bytes.Equal(good, got))

	// The size of a sparse file is in its records, and its content is nothing at all.
	sparse := tarOf(t, entry{tar.Header{Name: "Files/huge", Mode: 0o644, PAXRecords: map[string]string{
		"XXX.sparse.major": "1", "XXX.sparse.minor": "0", "XXX.sparse.name": "Files/huge", "XXX.sparse.realsize": fmt.Sprint(1 << 40),
	}}, "0\n" + strings.Repeat("\x00", 510)})
	sparse = bytes.ReplaceAll(sparse, []byte("XXX.sparse."), []byte("GNU.sparse.")) // which the package does not write
	header, err := tar.NewReader(bytes.NewReader(sparse)).Next()
	require.NoError(t, err)
	require.EqualValues(t, 1<<40, header.Size, "hcsshim would write that much")
	var many []entry
	for i := range 6 {
		many = append(many, file(fmt.Sprintf("Files/%d", i), ""))
	}
	var endless []byte // one header that describes the next, after the other
	described := tarOf(t, entry{tar.Header{Name: "Files/a", Mode: 0o644, PAXRecords: map[string]string{"COMMENT": strings.Repeat("A", 900<<10)}}, ""})
	for range 20 {
		endless = append(endless, described[:len(described)-3*512]...) // all but the file's own header and the end
	}
	for name, test := range map[string]struct {
		content []byte
		want    string
	}{
		"endless headers": {endless, "headers do not end"},
		"sparse":          {sparse, "is sparse"},
		"much":            {tarOf(t, file("Files/a", strings.Repeat("x", 600<<10)), file("Files/b", strings.Repeat("x", 600<<10))), "unpacks to more than 1 MiB"},
		"many":            {tarOf(t, many...), "more than 5 files"},
		"our mark":        {tarOf(t, file("Complete", "")), "no place in a layer"},
		"within our mark": {tarOf(t, file(`.\complete\x`, "")), "no place in a layer"},
	} {
		got, err := read(test.content)
		require.ErrorContains(t, err, test.want, name)
		require.Equal(t, fault.Author, fault.ClassOf(err), name)
		require.True(t, bytes.HasPrefix(test.content, got), name)
		require.Less(t, len(got), len(test.content), name)
	}

	broken := errors.New("the transfer broke")
	_, err = io.ReadAll(newGuard(io.MultiReader(bytes.NewReader(good[:5000]), iotest.ErrReader(broken)), space.NewBudget(space.Use{Bytes: 1 << 20, Inodes: 5}, nil)))
	require.ErrorIs(t, err, broken)
	_, err = read([]byte(strings.Repeat("no tar ", 1000)))
	require.ErrorContains(t, err, "reading its tar")
}
