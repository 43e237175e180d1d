// Package standin is a stand-in of the executor, for tests of its callers: it serves package api on a real unix socket,
// answers from fixed data, and runs the commands of sandboxes and shells as plain processes of this machine, on a real
// pseudo-terminal when one is asked for.
package standin
