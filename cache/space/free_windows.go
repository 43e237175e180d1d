package space

import (
	"io/fs"

	"golang.org/x/sys/windows"
)

// CountsInodes is false: NTFS makes records for files as it needs them, and their room is in what a layer takes.
const CountsInodes = false

// freeOf returns what the volume of dir has left for this process, and what it has in all.
func freeOf(dir string) (free, total Use, err error) {
	path, err := windows.UTF16PtrFromString(dir)
	if err != nil {
		return Use{}, Use{}, err
	}
	var available, size uint64
	if err := windows.GetDiskFreeSpaceEx(path, &available, &size, nil); err != nil {
		return Use{}, Use{}, err
	}
	return Use{Bytes: int64(available)}, Use{Bytes: int64(size)}, nil
}

// Allocated is what a file takes, in bytes.
func Allocated(info fs.FileInfo) int64 { return info.Size() }
