package probes

import (
	"bufio"
	"encoding/binary"
	"encoding/hex"
	"net"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

func rawSocket() error    { return socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP) }
func packetSocket() error { return socket(unix.AF_PACKET, unix.SOCK_RAW, 0) }

// vsock leads from a virtual machine to its hypervisor, past every network rule.
func vsock() error { return socket(unix.AF_VSOCK, unix.SOCK_STREAM, 0) }

func socket(domain, kind, protocol int) error {
	fd, err := unix.Socket(domain, kind|unix.SOCK_CLOEXEC, protocol)
	if err != nil {
		return err
	}
	return unix.Close(fd)
}

// dial tries to connect to each address.
func dial(network string, addresses func(Targets) []string) func(Targets) (string, error) {
	return func(targets Targets) (string, error) {
		return paths(func(address string) error {
			conn, err := net.DialTimeout(network, address, 300*time.Millisecond)
			if err != nil {
				return err
			}
			return conn.Close()
		}, addresses(targets)...)(targets)
	}
}

// gateways are the routers of proc's route table, at the port of address.
func gateways(address string) []string {
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil
	}
	file, err := os.Open("/proc/net/route")
	if err != nil {
		return nil
	}
	defer func() { _ = file.Close() }()
	var found []string
	for lines := bufio.NewScanner(file); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		if len(fields) < 3 {
			continue
		}
		raw, err := hex.DecodeString(fields[2]) // the third column, in host order
		if err != nil || len(raw) != 4 || binary.BigEndian.Uint32(raw) == 0 {
			continue
		}
		ip := make(net.IP, 4)
		binary.LittleEndian.PutUint32(ip, binary.BigEndian.Uint32(raw))
		found = append(found, net.JoinHostPort(ip.String(), port))
	}
	return found
}
