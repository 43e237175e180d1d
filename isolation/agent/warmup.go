package agent

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/airlock-ci/airlock/isolation"
)

// WarmUp lets a guest that waits for TellGuest go once through all that a sandbox's life begins with, in a child that
// is thrown away: the disks are mounted, the roots made, a process confined, and do may start others through the client.
// What an emulator has translated, and a kernel has in its caches, is there when the guest becomes a sandbox. The disks
// must be other ones than the sandbox's. When WarmUp returns without an error, the guest waits for TellGuest again,
// with no disk in use.
func WarmUp(ctx context.Context, conn DeadlineConn, setup GuestSetup, do func(context.Context, *Client) error) error {
	setup.WarmUp = true
	if err := TellGuest(ctx, conn, setup); err != nil {
		return err
	}
	err := withDeadline(ctx, conn, "warming up", func() error {
		stage := newRelay(conn)
		err := warmUp(ctx, stage, do)
		// However it went, the guest ends it, too: what it says until then is of no interest.
		_, ended := io.Copy(io.Discard, stage)
		return errors.Join(err, ended)
	})
	if err != nil {
		return err
	}
	return AwaitGuest(ctx, conn)
}

// warmUp plays the executor's part. The stage is closed, whatever happens.
func warmUp(ctx context.Context, stage *relay, do func(context.Context, *Client) error) error {
	if _, err := readReply(stage); err != nil {
		return errors.Join(err, stage.Close())
	}
	client, err := Connect(ctx, stage, Setup{Helper: &isolation.ImageConfig{}, Scripts: true})
	if err != nil {
		return errors.Join(err, stage.Close())
	}
	return errors.Join(do(ctx, client), client.Close())
}

// warmUpTimeout is how long a guest waits for the disks of a warm-up to be free.
const warmUpTimeout = 10 * time.Second
