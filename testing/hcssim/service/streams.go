package service

import (
	"io"
	"net"
	"sync"
	"time"
)

// streams join the two ends of the processes' streams: the client's and the guest's.
type streams struct {
	mu   sync.Mutex
	last uint64
	open map[uint64]*stream
}

type stream struct {
	in bool // towards the process
	// holds: the client's closing of the pipe does not end stdin, only CloseHandle does. hcsshim's users do both (moby
	// libcontainerd/local/process_windows.go), so nothing is known of either alone.
	holds         bool
	client, guest chan *net.TCPConn
	closed        chan struct{} // stdin was closed by a call
	once          sync.Once
}

func (s *streams) init() { s.open = map[uint64]*stream{} }

// when makes a stream if it is wanted, and returns its number.
func (s *streams) when(wanted, in, holds bool) uint64 {
	if !wanted {
		return 0
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last++
	st := &stream{in: in, holds: holds, client: make(chan *net.TCPConn, 1), guest: make(chan *net.TCPConn, 1), closed: make(chan struct{})}
	s.open[s.last] = st
	go st.join()
	return s.last
}

func (s *streams) take(number uint64) *stream {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.open[number]
}

// ClientStream and GuestStream give a stream its ends. A connection for an unknown one is closed.
func (s *Service) ClientStream(number uint64, conn *net.TCPConn) { s.streams.give(number, conn, false) }

// GuestStream is ClientStream for the other end.
func (s *Service) GuestStream(number uint64, conn *net.TCPConn) { s.streams.give(number, conn, true) }

func (s *streams) give(number uint64, conn *net.TCPConn, guest bool) {
	st := s.take(number)
	if st == nil {
		conn.Close()
		return
	}
	to := st.client
	if guest {
		to = st.guest
	}
	select {
	case to <- conn:
	default:
		conn.Close()
	}
}

// drop forgets streams of a process that did not start.
func (s *streams) drop(numbers ...uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, number := range numbers {
		if st := s.open[number]; st != nil {
			close(st.client)
			delete(s.open, number)
		}
	}
}

func (s *streams) closeIn(number uint64) {
	if st := s.take(number); st != nil {
		st.once.Do(func() { close(st.closed) })
	}
}

// join copies in the stream's direction until either end is closed. What one end breaks, the other sees broken.
func (st *stream) join() {
	guest := <-st.guest
	client := <-st.client
	if client == nil {
		guest.Close()
		return
	}
	defer client.Close()
	defer guest.Close()
	if !st.in {
		go closeWhenDone(client, guest)
		io.Copy(client, guest)
		return
	}
	ended := make(chan struct{})
	go func() {
		st.copyIn(guest, client)
		close(ended)
	}()
	select {
	case <-st.closed:
		client.SetReadDeadline(time.Now().Add(quiet))
		<-ended
	case <-ended:
		if st.holds {
			<-st.closed
		}
	}
}

// quiet is how long a client says nothing more before a stdin that was closed by a call has ended: what it wrote before
// it asked may be on its way still.
const quiet = time.Second

// copyIn copies until the client's end, or until it is quiet after the call that closed stdin.
func (st *stream) copyIn(guest, client *net.TCPConn) {
	buffer := make([]byte, 32<<10)
	for {
		n, err := client.Read(buffer)
		if _, broken := guest.Write(buffer[:n]); err != nil || broken != nil {
			return
		}
		select {
		case <-st.closed:
			client.SetReadDeadline(time.Now().Add(quiet))
		default:
		}
	}
}

// closeWhenDone closes the writing end when the reading one went away: an author's program then gets a broken pipe.
func closeWhenDone(reader, writer *net.TCPConn) {
	io.Copy(io.Discard, reader)
	writer.Close()
}
