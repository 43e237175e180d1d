//go:build unix

package identity

import (
	"fmt"
	"os/user"
	"strconv"
)

// GroupID returns the id of a group that the configuration names.
func GroupID(name string) (int, error) {
	group, err := user.LookupGroup(name)
	if err != nil {
		return 0, fmt.Errorf("the configured group: %w", err)
	}
	return strconv.Atoi(group.Gid)
}
