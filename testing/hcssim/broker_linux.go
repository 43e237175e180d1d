package hcssim

import (
	"fmt"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/airlock-ci/airlock/testing/hcssim/service"
)

// broker listens on loopback for the forwarding DLLs and the guests. Callers must know its secret.
type broker struct {
	secret   string
	listener net.Listener
	ready    chan struct{} // closed when there is a service

	mu       sync.Mutex
	service  *service.Service
	clients  map[uint64]*client
	attended int                          // connections whose end is a client's
	guests   map[string]chan *net.TCPConn // by token: the service waits there for a guest

	// opened guards open and nothing else: the service, which is locked then, drops connections, and under mu the service is
	// called.
	opened sync.Mutex
	open   map[net.Conn]bool
}

// client is a process: each of its DLLs has a connection that stays.
type client struct {
	*service.Client
	connections int
}

func listen(secret string) (*broker, error) {
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	b := &broker{
		secret: secret, listener: listener, ready: make(chan struct{}), clients: map[uint64]*client{},
		guests: map[string]chan *net.TCPConn{}, open: map[net.Conn]bool{},
	}
	go b.accept()
	return b, nil
}

func (b *broker) port() int { return b.listener.Addr().(*net.TCPAddr).Port }

// serve starts the service of calls; guests are served before.
func (b *broker) serve(s *service.Service) {
	b.service = s
	close(b.ready)
}

func (b *broker) close() {
	b.listener.Close()
	b.opened.Lock()
	defer b.opened.Unlock()
	for conn := range b.open {
		conn.Close()
	}
}

func (b *broker) accept() {
	for {
		conn, err := b.listener.Accept()
		if err != nil {
			return
		}
		b.opened.Lock()
		b.open[conn] = true
		b.opened.Unlock()
		go b.greet(conn.(*net.TCPConn))
	}
}

// greet reads what a connection is for. Streams and guests take it over; for the others it is closed here.
func (b *broker) greet(conn *net.TCPConn) {
	fields, err := service.ReadMessage(conn)
	if err != nil || len(fields) < 3 || string(fields[0]) != b.secret {
		b.drop(conn)
		return
	}
	purpose, argument, _ := strings.Cut(string(fields[1]), " ")
	pid := service.DecodeNumber(fields[2])
	var number uint64
	fmt.Sscan(argument, &number)
	if purpose == "guest" {
		b.guestCame(argument, conn)
		return
	}
	<-b.ready
	switch purpose {
	case "stream":
		b.service.ClientStream(number, conn)
	case "guest-stream":
		b.service.GuestStream(number, conn)
	case "client":
		b.attend(pid, conn)
	case "callback":
		b.callback(pid, conn)
	case "call":
		b.call(pid, conn)
	default:
		b.drop(conn)
	}
}

func (b *broker) drop(conn net.Conn) {
	conn.Close()
	b.opened.Lock()
	defer b.opened.Unlock()
	delete(b.open, conn)
}

// attend keeps the connection whose end is the client's.
func (b *broker) attend(pid uint64, conn net.Conn) {
	defer b.drop(conn)
	b.mu.Lock()
	c := b.clients[pid]
	if c == nil {
		c = &client{Client: b.service.Connect(pid)}
		b.clients[pid] = c
	}
	c.connections++
	b.attended++
	b.mu.Unlock()
	service.WriteMessage(conn, pid)
	service.ReadMessage(conn) // there is none: it returns when the process has ended
	b.mu.Lock()
	c.connections--
	last := c.connections == 0
	if last {
		delete(b.clients, pid)
	}
	b.mu.Unlock()
	if last {
		b.service.Disconnect(c.Client)
	}
	b.mu.Lock()
	b.attended--
	b.mu.Unlock()
}

// settle waits until the service knows of the ends of all clients: Wine closes what a process had a moment after its
// parent saw it end. A client that lives on makes it wait in vain.
func (b *broker) settle(most time.Duration) {
	for deadline := time.Now().Add(most); time.Now().Before(deadline); time.Sleep(2 * time.Millisecond) {
		b.mu.Lock()
		left := b.attended
		b.mu.Unlock()
		if left == 0 {
			return
		}
	}
}

func (b *broker) client(pid uint64) *client {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.clients[pid]
}

// callback makes a callback and carries its notifications.
func (b *broker) callback(pid uint64, conn net.Conn) {
	c := b.client(pid)
	if c == nil {
		b.drop(conn)
		return
	}
	id := b.service.Callback(c.Client, func(kind uint32, status service.HRESULT) error {
		if err := service.WriteMessage(conn, kind, status, ""); err != nil {
			return err
		}
		_, err := conn.Read(make([]byte, 1)) // the client's function has returned
		return err
	}, func() { b.drop(conn) })
	if service.WriteMessage(conn, id) != nil {
		b.drop(conn)
	}
}

func (b *broker) call(pid uint64, conn net.Conn) {
	defer b.drop(conn)
	fields, err := service.ReadMessage(conn)
	c := b.client(pid)
	if err != nil || c == nil {
		return
	}
	reply, after := b.service.Invoke(c.Client, fields)
	service.WriteMessage(conn, reply...)
	after()
}

// expect returns where the connection of a guest with a token will come.
func (b *broker) expect(token string) <-chan *net.TCPConn {
	b.mu.Lock()
	defer b.mu.Unlock()
	came := make(chan *net.TCPConn, 1)
	b.guests[token] = came
	return came
}

func (b *broker) guestCame(token string, conn *net.TCPConn) {
	b.mu.Lock()
	came := b.guests[token]
	delete(b.guests, token)
	b.mu.Unlock()
	if came == nil {
		b.drop(conn)
		return
	}
	came <- conn
}
