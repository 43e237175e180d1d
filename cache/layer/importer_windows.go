package layer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"syscall"
	"time"

	"github.com/Microsoft/go-winio"
	"github.com/Microsoft/hcsshim"
	"github.com/Microsoft/hcsshim/pkg/ociwclayer"
)

// templateTimeout bounds the wait for the end of one of the compute service's template machines.
const templateTimeout = 30 * time.Second

// brokenAnswer is what Import answers instead of a size when the layer itself is at fault.
const brokenAnswer = "broken"

// Import is the work of the process that Options.Importer starts: it reads a layer's uncompressed tar, imports it
// into dir upon the layers below, upper-most first, and answers with its size, or brokenAnswer beside the error. The
// privileges to write any owner and any access list are taken by the one thread that does it, and are gone with it.
func Import(ctx context.Context, dir string, below []string, tar io.Reader, answer io.Writer) error {
	for _, path := range append([]string{dir}, below...) {
		if !filepath.IsAbs(path) {
			return fmt.Errorf("the layer %q is not an absolute path", path)
		}
	}
	var size int64
	err := winio.RunWithPrivileges([]string{winio.SeBackupPrivilege, winio.SeRestorePrivilege, winio.SeSecurityPrivilege}, func() (err error) {
		size, err = ociwclayer.ImportLayerFromTar(ctx, tar, dir, below)
		return err
	})
	if err != nil {
		err = fmt.Errorf("importing into %s: %w", dir, err)
		if isBroken(err) {
			_, unsaid := fmt.Fprintln(answer, brokenAnswer)
			err = errors.Join(err, unsaid)
		}
		return err
	}
	// What follows the tar's end belongs to its digest, which the other process checks.
	if _, err := io.Copy(io.Discard, tar); err != nil && !errors.Is(err, io.ErrClosedPipe) {
		return err
	}
	_, err = fmt.Fprintln(answer, size)
	return err
}

// isBroken reports whether an import's failure is the layer's: a name that is twice in a layer or in none below it, and
// what hcsshim says in words of its own. What Windows or the compute service refuse otherwise is not.
func isBroken(err error) bool {
	if refused := (*hcsshim.HcsError)(nil); errors.As(err, &refused) {
		return false
	}
	var number syscall.Errno
	return errors.Is(err, fs.ErrExist) || errors.Is(err, fs.ErrNotExist) || !errors.As(err, &number)
}
