package supervisor

import (
	"os"
	"syscall"

	"golang.org/x/sys/windows"
)

// ownSession keeps the console's signals, Ctrl-C and Ctrl-Break, from the executor, and its windows from the desktop.
func ownSession() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{CreationFlags: windows.CREATE_NEW_PROCESS_GROUP | windows.CREATE_NO_WINDOW}
}

// systemEnvironment is what programs need to start at all on Windows, and what the library for the Host Compute
// Service reads when it is loaded: its timeouts in seconds. A start whose end is never told is known to happen;
// waiting the usual four minutes for it is no use.
func systemEnvironment() []string {
	env := []string{"HCSSHIM_TIMEOUT_SYSTEMCREATE=90", "HCSSHIM_TIMEOUT_SYSTEMSTART=90"}
	for _, name := range []string{"SystemRoot", "SystemDrive", "ProgramData", "TEMP", "TMP"} {
		if value, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+value)
		}
	}
	return env
}
