package network

import (
	"errors"
	"sync"
	"time"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// netfilterTimeout bounds one exchange with the kernel; it answers within milliseconds or never.
const netfilterTimeout = 10 * time.Second

// transaction collects changes that the kernel makes all at once or not at all. It is for rare use: see netfilter.
func transaction() (*nftables.Conn, error) {
	return nftables.New(nftables.WithSockOptions(func(c *netlink.Conn) error {
		return c.SetDeadline(time.Now().Add(netfilterTimeout))
	}))
}

// netfilter is a connection that stays open. Attach and Detach use it because closing one makes the kernel wait for
// what was removed over any, about 10 ms, in which nobody else can change rules.
type netfilter struct {
	mu   sync.Mutex
	tx   *nftables.Conn
	conn *netlink.Conn // below tx
}

// change makes the changes that collect puts into a transaction.
func (n *netfilter) change(collect func(*nftables.Conn) error) error {
	return n.use(func() error {
		if err := collect(n.tx); err != nil {
			return err
		}
		return n.tx.Flush()
	})
}

// execute sends one message and waits for its acknowledgement.
func (n *netfilter) execute(message netlink.Message) error {
	return n.use(func() error {
		_, err := n.conn.Execute(message)
		return err
	})
}

func (n *netfilter) use(do func() error) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.tx == nil {
		tx, err := nftables.New(nftables.AsLasting(), nftables.WithSockOptions(func(c *netlink.Conn) error {
			n.conn = c
			return nil
		}))
		if err != nil {
			return err
		}
		n.tx = tx
	}
	if err := n.conn.SetDeadline(time.Now().Add(netfilterTimeout)); err != nil {
		return err
	}
	err := do()
	if err != nil && !errors.Is(err, unix.ENOENT) {
		n.closeLocked() // an answer that still comes must not be taken for the next one's
	}
	return err
}

func (n *netfilter) close() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.closeLocked()
}

func (n *netfilter) closeLocked() {
	if n.tx != nil {
		_ = n.tx.CloseLasting()
		n.tx, n.conn = nil, nil
	}
}
