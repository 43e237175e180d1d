package private

import (
	"context"
	"errors"
	"fmt"
	"net"

	"github.com/Microsoft/go-winio"
	"golang.org/x/sys/windows"
)

// UsePipe is the right to talk over a pipe: FILE_GENERIC_READ and FILE_GENERIC_WRITE but for FILE_APPEND_DATA, which of a
// pipe means FILE_CREATE_PIPE_INSTANCE, to answer in its server's stead
// (https://learn.microsoft.com/windows/win32/ipc/named-pipe-security-and-access-rights).
const UsePipe = (windows.FILE_GENERIC_READ | windows.FILE_GENERIC_WRITE) &^ windows.FILE_APPEND_DATA

// DialPipe connects to a pipe that the system, an administrator or this process's own user made. Anyone may make a pipe of
// any name that is not taken, and wait there for what jobs tell the service: their variables and tokens.
func DialPipe(ctx context.Context, name string) (net.Conn, error) {
	conn, err := winio.DialPipeAccess(ctx, name, UsePipe)
	if err != nil {
		return nil, err
	}
	if err := checkServer(name, conn); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return conn, nil
}

func checkServer(name string, conn net.Conn) error {
	file, ok := conn.(interface{ Fd() uintptr })
	if !ok {
		return fmt.Errorf("asking who owns %s: %T is no pipe", name, conn)
	}
	found, err := windows.GetSecurityInfo(windows.Handle(file.Fd()), windows.SE_KERNEL_OBJECT, windows.OWNER_SECURITY_INFORMATION)
	if err != nil {
		return fmt.Errorf("asking who owns %s: %w", name, err)
	}
	owner, _, err := found.Owner()
	if err != nil {
		return fmt.Errorf("asking who owns %s: %w", name, err)
	}
	if err := mustBeTrusted(name, owner); err != nil {
		return fmt.Errorf("%w: nothing was said to it; end the process that made it before you start the service", err)
	}
	return nil
}
