package host

import (
	"os"
	"syscall"

	"golang.org/x/sys/windows"
)

// ownSession keeps the console's signals from the executor. Not run yet.
func ownSession() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{CreationFlags: windows.CREATE_NEW_PROCESS_GROUP | windows.CREATE_NO_WINDOW}
}

// systemEnvironment is what programs need to start at all on Windows.
func systemEnvironment() []string { return []string{"SystemRoot=" + os.Getenv("SystemRoot")} }
