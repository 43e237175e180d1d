package hns

import (
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/airlock-ci/airlock/internal/waiting"
)

const (
	// patience is how long one call of the service is waited for.
	patience = 30 * time.Second
	// mostHanging calls may wait for the service in vain before no more are made.
	mostHanging = 3
)

// bounded is a service that is not waited for without end. It takes no deadlines itself, and is known not to answer: when
// an endpoint is to go that a container still has (moby#40699), for one. A call that was given up goes on in a thread of
// its own; what it makes has its sandbox's name, so the reaper finds it.
type bounded struct {
	service  service
	patience time.Duration
	hanging  atomic.Int32
	removing sync.Map // by id: endpoints whose removal has not returned, of which one such call is enough
}

// ask makes one call.
func ask[T any](b *bounded, call func() (T, error)) (T, error) {
	var none T
	if b.hanging.Load() >= mostHanging {
		return none, fmt.Errorf("%d calls of the networking service hang: restart this host", mostHanging)
	}
	value, answered, err := waiting.Call(b.patience, call, func(T, error) { b.hanging.Add(-1) })
	if answered {
		return value, err
	}
	b.hanging.Add(1)
	return none, fmt.Errorf("the networking service does not answer within %s", b.patience)
}

// do is ask for calls without a result.
func (b *bounded) do(call func() error) error {
	_, err := ask(b, func() (struct{}, error) { return struct{}{}, call() })
	return err
}

func (b *bounded) Networks() ([]network, error) { return ask(b, b.service.Networks) }

func (b *bounded) CreateNetwork(name, subnet, gateway string) (network, error) {
	return ask(b, func() (network, error) { return b.service.CreateNetwork(name, subnet, gateway) })
}

func (b *bounded) DeleteNetwork(id string) error {
	return b.do(func() error { return b.service.DeleteNetwork(id) })
}

func (b *bounded) Endpoints() ([]endpoint, error) { return ask(b, b.service.Endpoints) }

func (b *bounded) CreateEndpoint(e endpoint) (endpoint, error) {
	return ask(b, func() (endpoint, error) { return b.service.CreateEndpoint(e) })
}

func (b *bounded) DeleteEndpoint(id string) error {
	return b.do(func() error {
		if _, already := b.removing.LoadOrStore(id, nil); already {
			return fmt.Errorf("an earlier removal of the endpoint %s has not returned", id)
		}
		defer b.removing.Delete(id)
		return b.service.DeleteEndpoint(id)
	})
}
