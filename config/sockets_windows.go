package config

import "regexp"

const exampleSocket = `\\.\pipe\airlock-protected`

var pipePattern = regexp.MustCompile(`^\\\\\.\\pipe\\[A-Za-z0-9_.-]{1,200}$`)

func isSocket(s string) (string, string) {
	if !pipePattern.MatchString(s) {
		return "is not the name of a pipe", "write one in single quotes, as in '" + exampleSocket + "'"
	}
	return "", ""
}

// sharesDirectory is false: pipes have no directories.
func sharesDirectory(Socket, Socket) bool { return false }
