package microvm

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// maxQMP bounds a message of QEMU's, in bytes: a guest may have taken it over.
	maxQMP = 64 << 10
	// qmpTimeout bounds the wait for an answer.
	qmpTimeout = 20 * time.Second
	// keptEvents bounds what is remembered of QEMU's events.
	keptEvents = 64
)

// qmpMessage is any message of QEMU's: https://www.qemu.org/docs/master/interop/qmp-spec.html.
type qmpMessage struct {
	Return json.RawMessage `json:"return"`
	Error  *struct {
		Desc string `json:"desc"`
	} `json:"error"`
	Event string `json:"event"`
	Data  struct {
		Reason  string `json:"reason"`
		NoSpace bool   `json:"nospace"`
	} `json:"data"`
}

// qmp is the connection to one QEMU's monitor. Commands are answered in their order.
type qmp struct {
	conn    *net.UnixConn
	answers chan qmpMessage
	onEvent func(qmpMessage) // called by one goroutine
	mutex   sync.Mutex       // one exchange at a time
	done    chan struct{}    // closed when the connection has ended
}

func newQMP(conn *net.UnixConn, onEvent func(qmpMessage)) *qmp {
	q := &qmp{conn: conn, answers: make(chan qmpMessage, keptEvents), onEvent: onEvent, done: make(chan struct{})}
	go q.read()
	return q
}

// read passes messages on until the connection ends, or QEMU breaks the protocol.
func (q *qmp) read() {
	defer close(q.done)
	defer func() { _ = q.conn.Close() }()
	lines := bufio.NewScanner(q.conn)
	lines.Buffer(make([]byte, 4096), maxQMP)
	for lines.Scan() {
		var message qmpMessage
		if json.Unmarshal(lines.Bytes(), &message) != nil {
			return
		}
		switch {
		case message.Event != "":
			q.onEvent(message)
		case message.Return != nil || message.Error != nil:
			select {
			case q.answers <- message:
			default:
				return // it answers what nobody asked
			}
		}
	}
}

// command is one QMP command; file, if any, is passed along.
type command struct {
	Execute   string         `json:"execute"`
	Arguments map[string]any `json:"arguments,omitempty"`
	file      int
}

// run sends commands at once and waits until all are answered. The first that fails is the error.
func (q *qmp) run(commands ...command) ([]json.RawMessage, error) {
	q.mutex.Lock()
	defer q.mutex.Unlock()
	deadline := time.Now().Add(qmpTimeout)
	if err := q.conn.SetWriteDeadline(deadline); err != nil {
		return nil, err
	}
	for _, c := range commands {
		payload, err := json.Marshal(c)
		if err != nil {
			return nil, err
		}
		var rights []byte
		if c.file > 0 {
			rights = unix.UnixRights(c.file)
		}
		if _, _, err := q.conn.WriteMsgUnix(append(payload, '\n'), rights, nil); err != nil {
			return nil, fmt.Errorf("QEMU's monitor: %s: %w", c.Execute, err)
		}
	}
	timer := time.NewTimer(time.Until(deadline))
	defer timer.Stop()
	var results []json.RawMessage
	for _, c := range commands {
		select {
		case answer := <-q.answers:
			if answer.Error != nil {
				return nil, fmt.Errorf("QEMU's monitor: %s: %s", c.Execute, answer.Error.Desc)
			}
			results = append(results, answer.Return)
		case <-q.done:
			return nil, fmt.Errorf("QEMU's monitor: %s: %w", c.Execute, errors.New("the connection ended"))
		case <-timer.C:
			return nil, fmt.Errorf("QEMU's monitor: %s: no answer within %s", c.Execute, qmpTimeout)
		}
	}
	return results, nil
}

var capabilitiesCommand = command{Execute: "qmp_capabilities"}
