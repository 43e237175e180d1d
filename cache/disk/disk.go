// Package disk makes the disks of guests: the layers of an image, merged into one read-only ext4 file system.
//
// It reads the layers themselves. It mounts nothing, needs no privilege, and leaves nothing behind. A disk shows what an
// overlay of the layers shows. A mistake of the converter, which reads a stranger's image, ends that job alone. It never
// decides where a disk lies or how long: the facade makes disks, and the records know which are needed.
package disk

import (
	"crypto/sha256"
	"encoding/hex"
	"os"
	"strings"

	"github.com/airlock-ci/airlock/cache/space"
)

// Size is the size of every disk image, in bytes: 64 GiB. A virtual machine that is restored from a template
// keeps the sizes that its devices had there, so one size has to fit all. The file is sparse: it takes
// space on the host for what is in it. It bounds an image, with its metadata, and a scratch.
const Size = 64 << 30

// diskFormat is raised whenever the same layers would become another disk. Disks of other formats are removed
// at the start.
const diskFormat = "1"

// Name names the disk of layers by their ids, upper-most first.
func Name(stack []string) string {
	hash := sha256.Sum256([]byte("ext4 " + diskFormat + "\n" + strings.Join(stack, "\n")))
	return "sha256-" + hex.EncodeToString(hash[:]) + ".ext4"
}

// Finish gives a disk its full size, makes it lasting and read-only, and returns what it takes on the host.
func Finish(file *os.File) (int64, error) {
	if err := file.Truncate(Size); err != nil {
		return 0, err
	}
	if err := file.Chmod(0o444); err != nil {
		return 0, err
	}
	if err := file.Sync(); err != nil {
		return 0, err
	}
	info, err := file.Stat()
	if err != nil {
		return 0, err
	}
	return space.Allocated(info), nil
}
