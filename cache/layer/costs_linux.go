package layer

import (
	"archive/tar"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/airlock-ci/airlock/cache/space"
	"github.com/airlock-ci/airlock/cache/tree"
)

// maxFile is more than any file system of Linux gives a file, in bytes: 8 EiB less a block.
const maxFile = 1<<63 - 1 - space.BlockSize

// inlineLink is the longest target of a symbolic link that ext4 keeps in the inode, in bytes.
const inlineLink = 59

// costOf returns by an entry's header what it takes on a file system, rather too much than too little: it is asked
// before anything is written. What a layer really takes is measured when it is whole. Names of files that have others
// count as files do: a million hard links fill directories, and take their time.
func costOf(header *tar.Header, name string) space.Use {
	use := space.Use{Bytes: nameCost(name), Inodes: 1}
	switch header.Typeflag {
	case tar.TypeLink:
		return use
	case tar.TypeDir:
		use.Bytes += space.BlockSize
	case tar.TypeSymlink:
		if len(header.Linkname) > inlineLink {
			use.Bytes += space.Blocks(int64(len(header.Linkname)))
		}
	}
	attributes := 0
	for key, value := range header.PAXRecords {
		if attribute, found := strings.CutPrefix(key, "SCHILY.xattr."); found && tree.KeptAttribute(attribute) {
			attributes += len(attribute) + len(value)
		}
	}
	use.Bytes += space.Blocks(header.Size) + space.Blocks(int64(attributes))
	return use
}

// impliedCost is what a directory takes that is only named as a part of paths.
var impliedCost = space.Use{Bytes: space.BlockSize + nameCost(strings.Repeat("x", unix.NAME_MAX)), Inodes: 1}

// nameCost is what the last part of a path takes in its directory, in bytes: linux/Documentation/filesystems/ext4, in
// blocks that are half full.
func nameCost(name string) int64 {
	base := name[strings.LastIndexByte(name, '/')+1:]
	return 2 * int64(8+min(len(base), unix.NAME_MAX)+3)
}
