// Package addmask stands in for the masking of the runner's proxy-exec command, which main.go does not offer: that
// command alone uses it. No masked writer can be made. The masking of job logs is the runner's own and needs none of this.
package addmask

import (
	"errors"
	"io"
)

// DB keeps the phrases to mask.
type DB interface {
	List() ([]string, error)
	Add(phrase string) error
}

// AddMask would be a set of masked writers; there is none.
type AddMask struct{}

func New(DB, ...io.Writer) (*AddMask, error) {
	return nil, errors.New("proxy-exec is not part of this build")
}

func (*AddMask) Get(int) io.Writer { return io.Discard }
func (*AddMask) Close() error      { return nil }
