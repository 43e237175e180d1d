// Package executorpb is the generated gRPC binding of the executor plugin's contract: what the host calls. Its
// messages are those of package api. `make generate` makes it; nobody edits it by hand.
package executorpb
