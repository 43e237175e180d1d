// Package hosttest is a stand-in for the service, for tests of its clients: a real ttrpc server on a real unix
// socket that answers from fixed data and runs the commands of sandboxes and shells as plain processes of this
// machine, on a real pseudo-terminal when one is asked for.
package hosttest
