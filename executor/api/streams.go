package api

import "io"

// Streams is what flows beside a call that runs something: the caller's side of stdin, output, signals and
// terminal size. Writers may block for as long as the caller is slow; they fail once it is gone.
type Streams struct {
	// Stdin ends with io.EOF when the caller ended it. Nil: empty.
	Stdin io.Reader
	// Stdout and Stderr are never nil.
	Stdout, Stderr io.Writer
	// Signals carries signal numbers: 15 asks for a graceful end, 9 for an end at once. Closed at the end of
	// the call; may be nil.
	Signals <-chan int
	// Resizes carries new terminal sizes; may be nil.
	Resizes <-chan *Resize
}
