package standin

import (
	"net"
	"sync"

	"github.com/airlock-ci/airlock/api"
)

// Accept serves callers who come to a listener until the returned function ends it, and all that runs.
func Accept(listener net.Listener, greet func() (api.Version, error), handle api.Handler) (end func()) {
	var mu sync.Mutex
	open := map[net.Conn]struct{}{}
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			open[conn] = struct{}{}
			mu.Unlock()
			serving.Go(func() {
				api.ServeConn(conn, greet, handle)
				mu.Lock()
				delete(open, conn)
				mu.Unlock()
			})
		}
	})
	return func() {
		_ = listener.Close()
		mu.Lock()
		for conn := range open {
			_ = conn.Close()
		}
		mu.Unlock()
		serving.Wait()
	}
}
