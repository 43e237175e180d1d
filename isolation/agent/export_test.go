package agent

import (
	"context"
	"io"

	"github.com/hashicorp/yamux"
)

// Greet is Connect without the setup, which prepares directories of the machine that the agent runs on.
func Greet(ctx context.Context, conn io.ReadWriteCloser) (*Client, error) {
	session, err := yamux.Client(newGuard(conn), yamuxConfig(writeTimeout))
	if err != nil {
		return nil, err
	}
	c := &Client{session: session}
	return c, c.greet(ctx)
}
