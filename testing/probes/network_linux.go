package probes

import (
	"bufio"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"net"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// rawSocket asks for every protocol's but ICMP's, which ping has. They would show what others in the sandbox send.
func rawSocket() error {
	return anyOf(
		socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_RAW), socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_TCP),
		socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_UDP), socket(unix.AF_INET6, unix.SOCK_RAW, unix.IPPROTO_TCP))
}

func packetSocket() error {
	return anyOf(
		socket(unix.AF_PACKET, unix.SOCK_RAW, 0), socket(unix.AF_PACKET, unix.SOCK_DGRAM, 0), socket(unix.AF_INET, unix.SOCK_PACKET, 0))
}

// anyOf is nil when one of several attempts succeeded.
func anyOf(attempts ...error) error {
	for _, err := range attempts {
		if err == nil {
			return nil
		}
	}
	return errors.Join(attempts...)
}

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
