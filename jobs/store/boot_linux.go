package store

import (
	"os"
	"strings"
)

// bootID returns the kernel's random id of this boot; empty, and so never compared, when it cannot be read.
func bootID() string {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(id))
}
