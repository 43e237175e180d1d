package space

import (
	"io/fs"
	"syscall"

	"golang.org/x/sys/unix"
)

// CountsInodes is true where file systems have a number of inodes that can be used up.
const CountsInodes = true

// freeOf returns what the file system of dir has left for this process, and what it has in all. Total.Inodes is 0 where
// inodes are made as they are needed.
func freeOf(dir string) (free, total Use, err error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return Use{}, Use{}, err
	}
	return Use{Bytes: int64(st.Bavail) * st.Frsize, Inodes: int64(st.Ffree)},
		Use{Bytes: int64(st.Blocks) * st.Frsize, Inodes: int64(st.Files)}, nil
}

// Allocated is what a file takes on the host, in bytes.
func Allocated(info fs.FileInfo) int64 {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return st.Blocks * 512
	}
	return info.Size()
}
