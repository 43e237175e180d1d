//go:build !linux

package service

import "github.com/airlock-ci/airlock/api/control"

// StoreSockets reports that nobody keeps sockets here.
func StoreSockets([]control.Socket) (bool, error) { return false, nil }

// StoredSockets returns none.
func StoredSockets() []control.Socket { return nil }
