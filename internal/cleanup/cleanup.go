// Package cleanup undoes what a function has made when the function fails half-way. Every package that acquires several
// things in a row is its caller: it pushes each thing's release on the line after the thing was acquired, and calls
// Release when all went well. A Stack belongs to one call of one function and is not safe for concurrent use.
package cleanup

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// limit bounds all releases of one stack together. The longest of them, the removal of a sandbox, gives itself half of it.
const limit = time.Minute

// Stack holds the releases of what a function has made so far.
//
//	undo := cleanup.New(ctx)
//	defer undo.Run(&err)
//	file, err := os.Open(path)
//	if err != nil {
//		return nil, err
//	}
//	undo.Push(file.Close)
//	...
//	undo.Release()
//	return file, nil
type Stack struct {
	ctx      context.Context
	releases []func(context.Context) error
}

// New returns an empty stack. Releases get the values of ctx, and neither its cancellation nor its deadline.
func New(ctx context.Context) *Stack { return &Stack{ctx: context.WithoutCancel(ctx)} }

// Push adds the release of what was just made.
func (s *Stack) Push(release func() error) {
	s.PushContext(func(context.Context) error { return release() })
}

// PushContext adds a release that takes a context: one of its own, which ends when all releases together took too long.
func (s *Stack) PushContext(release func(context.Context) error) {
	s.releases = append(s.releases, release)
}

// Release keeps what was made: Run has nothing to do then.
func (s *Stack) Release() { s.releases = nil }

// Run calls the releases, the last one first, each once and whatever became of the others, and joins their errors to err.
func (s *Stack) Run(err *error) {
	if len(s.releases) == 0 {
		return
	}
	ctx, cancel := context.WithTimeoutCause(s.ctx, limit, fmt.Errorf("the clean-up took longer than %s", limit))
	defer cancel()
	for len(s.releases) > 0 {
		last := len(s.releases) - 1
		release := s.releases[last]
		s.releases = s.releases[:last]
		if failed := release(ctx); failed != nil {
			*err = errors.Join(*err, failed)
		}
	}
}
