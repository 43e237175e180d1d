package cache

import (
	"context"
	"errors"

	"golang.org/x/sys/windows"
)

// countsInodes is false: NTFS makes records for files as it needs them, and their room is in what a layer takes.
const countsInodes = false

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

// measureLayer is not needed: importing a layer tells its size.
func (c *Cache) measureLayer(context.Context, string) (Use, error) {
	return Use{}, errors.ErrUnsupported
}
