// Package inherited keeps descriptors that this process was started with from the processes that it starts. Go's own are
// closed on exec; those that a shell, a service manager or a supervisor left open when it started us are not, and every
// program that we run would have them, a virtual machine's QEMU too. Its callers are the programs that start others, first
// of all that they do.
package inherited
