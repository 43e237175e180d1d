package conformance

import (
	"testing"

	"github.com/airlock-ci/airlock/isolation"
)

// system is the system within sandboxes: how to make it do what a promise is about, and which promises it has of its own.
type system interface {
	say(text string) isolation.ProcessSpec                 // prints text and ends the line
	exit(code int) isolation.ProcessSpec                   // ends with code
	live() isolation.ProcessSpec                           // prints the line "up", and lives on though asked to end
	cat() isolation.ProcessSpec                            // copies stdin to stdout
	show(args ...string) isolation.ProcessSpec             // prints its arguments, each in angle brackets
	variables(names ...string) isolation.ProcessSpec       // prints their values on one line, between blanks
	directory() isolation.ProcessSpec                      // prints its working directory on a line
	list(dir string) isolation.ProcessSpec                 // prints what is in a directory, or that there is none
	write(path, text string) isolation.ProcessSpec         // replaces a file
	read(path string) isolation.ProcessSpec                // prints a file, or fails
	count(numbers, code int) isolation.ProcessSpec         // prints 1 to numbers, a line each, to both streams at once, and ends with code
	script() isolation.ProcessSpec                         // prints "line 1", and "err" to stderr, and ends with 42
	longScript() isolation.ProcessSpec                     // prints "start" and, a long way on, "end"
	leaving() []isolation.ProcessSpec                      // print "main", leave a process and end with 4
	places() places                                        // where things are
	otherExits() map[string]ended                          // further ways to end, by a name
	refused() map[string]func(spec *isolation.Spec)        // further specifications that cannot be had
	left(t testing.TB, b box, before isolation.Stats) bool // whether something of leaving() lives that was not there before
	promises() []promise
}

// places are paths within a sandbox.
type places struct {
	absent    string // nothing is there, nor on the host
	own       string // a new file
	image     string // a file of the image with imageText; "" where the image has none
	imageText string
	scripts   string            // the directory of stages' scripts
	dirs      map[string]string // a directory that is asked for, and where a process then is
}

// ended is a process and how it has to end.
type ended struct {
	process isolation.ProcessSpec
	exit    isolation.Exit
}

// system is the one of an environment's sandboxes.
func (env RuntimeEnv) system() system {
	if env.Windows != nil {
		return *env.Windows
	}
	return posix{}
}
