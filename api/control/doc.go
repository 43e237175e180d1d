// Package control is how a supervisor, `airlock serve`, starts an executor and watches it, as a go-plugin: the command
// line, the handshake, mutual TLS, the gRPC service (control.proto), and the handing over of listening sockets.
//
// It owns that boundary and both of its ends; it knows no job. Package executor is on one side of it, package supervisor
// on the other, and other executors can be written against it: docs/contract.md.
package control
