package agent

import (
	"context"
	"io"

	"github.com/hashicorp/yamux"

	"github.com/airlock-ci/airlock/internal/frame"
)

// Greet is Connect without the setup, which prepares directories of the machine that the agent runs on.
func Greet(ctx context.Context, conn io.ReadWriteCloser) (*Client, error) {
	session, err := yamux.Client(frame.NewGuard(conn, 0), frame.Config(writeTimeout, startTimeout))
	if err != nil {
		return nil, err
	}
	c := &Client{session: session}
	return c, c.greet(ctx)
}
