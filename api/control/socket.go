package control

import "os"

// Socket is a listening unix socket under the path that callers know it by. A process that holds its descriptor keeps
// the path bound, and callers wait in its queue while nobody accepts them.
type Socket struct {
	Path string
	File *os.File
}

// Close closes the descriptors of sockets.
func Close(sockets []Socket) {
	for _, s := range sockets {
		_ = s.File.Close()
	}
}
