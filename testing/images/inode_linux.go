package images

import (
	"fmt"
	"io/fs"
	"syscall"
)

// fileID identifies a file on this machine whatever its names.
func fileID(info fs.FileInfo) string {
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		return fmt.Sprintf("%d:%d", stat.Dev, stat.Ino)
	}
	return info.Name()
}
