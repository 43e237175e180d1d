package tree

import (
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/airlock-ci/airlock/internal/fault"
)

// contentErrors are those that only the tar's content can cause: names, targets and attributes too long or of bytes that
// the file system does not allow, too many links, files too large.
var contentErrors = []unix.Errno{
	unix.ENAMETOOLONG, unix.EINVAL, unix.EMLINK, unix.E2BIG, unix.ERANGE, unix.EILSEQ, unix.EFBIG, unix.EOVERFLOW,
}

// Classify classifies a failed system call. What only the tar's content can cause is the author's.
func Classify(doing, name string, err error) error {
	switch {
	case err == nil:
		return nil
	case slices.ContainsFunc(contentErrors, func(e unix.Errno) bool { return errors.Is(err, e) }):
		return fault.Authorf("the image holds what no file system can: %s %.200q: %w", doing, name, err)
	default:
		return fault.Systemf("unpacking: %s %.200q: %w", doing, name, err)
	}
}

// Reading classifies an error of the host in reading what was unpacked.
func Reading(doing, name string, err error) error {
	return fault.Systemf("%s %.200q of the unpacked image: %w", doing, fmt.Sprint("/", name), err)
}
