package control

import (
	"fmt"
	"os"
	"os/signal"

	"golang.org/x/sys/unix"
)

// detach cuts what an executor that outlives its supervisor would suffer from: go-plugin hands the supervisor's stdin
// on, which may be a terminal, and the first write to a stderr whose reader has gone would end the process.
func detach() error {
	signal.Ignore(unix.SIGPIPE)
	null, err := os.Open(os.DevNull)
	if err != nil {
		return err
	}
	defer null.Close()
	if err := unix.Dup3(int(null.Fd()), 0, 0); err != nil {
		return fmt.Errorf("replacing stdin: %w", err)
	}
	return nil
}
