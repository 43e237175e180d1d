package supervisor

import "syscall"

// ownSession keeps the terminal's signals from the executor: Ctrl-C stops the supervisor alone.
func ownSession() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setsid: true} }

func systemEnvironment() []string { return nil }
