//go:build !windows

package identity

import "context"

// AwaitStop returns a channel that never delivers: signals ask a process to end here.
func AwaitStop(context.Context) (<-chan struct{}, error) { return nil, nil }
