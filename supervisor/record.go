package supervisor

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/airlock-ci/airlock/internal/identity"
)

// record is what a supervisor must know to find its predecessor's executor again; it lies in the run directory.
type record struct {
	Network  string           `json:"network"` // "unix" or "tcp"
	Address  string           `json:"address"`
	Process  identity.Process `json:"process"`
	Instance string           `json:"instance"` // what its Version answers
	Protocol uint32           `json:"protocol"`
	Checksum string           `json:"checksum"` // SHA-256 of its binary, hex
	Started  time.Time        `json:"started"`
	// Sockets are the paths at which it listens.
	Sockets []string `json:"sockets,omitempty"`
	// Left is when the last supervisor let go of it; zero when that was killed.
	Left time.Time `json:"left"`
}

// writeRecord replaces the record in one step, so that a supervisor killed here leaves the old one or the new one.
func writeRecord(path string, r record) error {
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	fresh := path + ".new"
	if err := os.WriteFile(fresh, append(text, '\n'), 0o600); err != nil {
		return err
	}
	return os.Rename(fresh, path)
}

func readRecord(path string) (record, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return record{}, err
	}
	var r record
	if err := json.Unmarshal(text, &r); err != nil {
		return record{}, fmt.Errorf("%s: %w", path, err)
	}
	return r, nil
}

func (r record) addr() (net.Addr, error) {
	switch r.Network {
	case "unix":
		return net.ResolveUnixAddr("unix", r.Address)
	case "tcp":
		return net.ResolveTCPAddr("tcp", r.Address)
	default:
		return nil, fmt.Errorf("the executor's record names the network %q", r.Network)
	}
}
