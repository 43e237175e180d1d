package config

import (
	"fmt"
	"path/filepath"
	"regexp"
)

// Socket is one [[sockets]]: a socket beside the service's own, for the drivers of one runner class. A caller on it has that
// class and no other, and on no other socket does a caller have it.
type Socket struct {
	// Path is the socket's; its directory is made when missing. On Windows the name of a pipe.
	Path string
	// Group may use it.
	Group string
	// RunnerClass is the callers'.
	RunnerClass string
}

func socketKeys() []listedKey[Socket] {
	return []listedKey[Socket]{
		{"path", func(s *Socket, r *reading) { r.text(&s.Path, isSocket) }},
		{"group", func(s *Socket, r *reading) { r.text(&s.Group, isOtherGroup) }},
		{"runner_class", func(s *Socket, r *reading) { r.text(&s.RunnerClass, isClass) }},
	}
}

// settleSockets reads all [[sockets]] and refuses those that would contradict each other.
func settleSockets(c *Config, doc document, all *Error) {
	for _, table := range doc.sockets {
		before := len(all.Problems)
		socket := readListed(table, socketsTable, socketKeys(), all)
		if len(all.Problems) == before {
			checkSocket(c, socket, table, all)
		}
		for j, other := range c.Sockets {
			first := doc.sockets[j].at.line
			switch {
			case socket.Path != "" && socket.Path == other.Path:
				all.add(table.find("path"), socketsTable+".path", fmt.Sprintf("%s is the socket of line %d, too", quote(socket.Path), first),
					"give each runner class a socket of its own")
			case socket.RunnerClass != "" && socket.RunnerClass == other.RunnerClass:
				all.add(table.find("runner_class"), socketsTable+".runner_class",
					fmt.Sprintf("the class %s has the socket of line %d already", quote(socket.RunnerClass), first), "remove one of the two")
			case sharesDirectory(socket, other):
				all.add(table.find("path"), socketsTable+".path",
					fmt.Sprintf("its directory is that of the socket of line %d, which another group may enter", first), "give each a directory of its own")
			}
		}
		c.Sockets = append(c.Sockets, socket)
	}
}

// checkSocket refuses a socket that is not complete, or that lies where the service keeps things of its own.
func checkSocket(c *Config, s Socket, table listedTable, all *Error) {
	for _, required := range []struct{ name, value, remedy string }{
		{"path", s.Path, `add it, as in path = "` + exampleSocket + `"`},
		{"group", s.Group, "add the group of the user that this class's gitlab-runner runs as"},
		{"runner_class", s.RunnerClass, "add the class that a caller on this socket has"},
	} {
		if required.value == "" {
			all.add(table.at, socketsTable, required.name+" is missing", required.remedy)
			return
		}
	}
	for name, dir := range map[string]string{"run_dir": c.RunDir, "state_dir": c.StateDir} {
		if isBelow(s.Path, dir) {
			all.add(table.find("path"), socketsTable+".path", fmt.Sprintf("%s is in %s, %s, which is the service's own", quote(s.Path), name, dir),
				`name a directory of its own, as in "`+exampleSocket+`"`)
			return
		}
	}
}

// isOtherGroup is isGroup for a socket that is no use to root alone.
func isOtherGroup(s string) (string, string) {
	if s == "" {
		return "is no group", "name the group of the user that this class's gitlab-runner runs as"
	}
	return isGroup(s)
}

var classPattern = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.:/-]{0,99}$`)

func isClass(s string) (string, string) {
	if !classPattern.MatchString(s) {
		return "is not a runner class", `write letters, digits and "_.:/-", as in "protected"`
	}
	return "", ""
}

// isBelow reports whether a clean absolute path is dir or below it.
func isBelow(path, dir string) bool {
	relative, err := filepath.Rel(dir, path)
	return err == nil && filepath.IsLocal(relative)
}
