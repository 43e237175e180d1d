//go:build !windows

package config

import (
	"fmt"
	"path/filepath"
	"strings"
)

const exampleSocket = "/run/airlock-protected/host.sock"

// longestSocket is the longest path of a socket, in bytes: sun_path of unix(7) has 108 with its end, and a new socket is made
// beside the old one, with one byte more in its name.
const longestSocket = 106

func isSocket(s string) (string, string) {
	wrong, remedy := isAbsolute(s)
	switch {
	case wrong != "":
		return wrong, strings.TrimSuffix(remedy, ", on Windows with a drive")
	case filepath.Dir(s) == "/":
		return "is in the root directory", `name a directory of its own, as in "` + exampleSocket + `"`
	case len(s) > longestSocket:
		return "is too long for a socket", fmt.Sprintf("take a path of %d bytes at most", longestSocket)
	}
	return "", ""
}

// sharesDirectory reports whether two sockets are in one directory, which only one of their groups may enter.
func sharesDirectory(a, b Socket) bool {
	return a.Path != "" && b.Path != "" && filepath.Dir(a.Path) == filepath.Dir(b.Path) && a.Group != b.Group
}
