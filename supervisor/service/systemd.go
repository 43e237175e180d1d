package service

import (
	"net"
	"os"
)

// notifyVariable names systemd's socket for sd_notify(3).
const notifyVariable = "NOTIFY_SOCKET"

// NotifyReady tells systemd that callers can connect; without systemd it does nothing. Its failure is no reason to stop
// serving.
func NotifyReady() error {
	_, err := notify("READY=1\n", nil)
	return err
}

// notify sends a message to systemd, with descriptors if any; false when there is no systemd.
func notify(message string, rights []byte) (bool, error) {
	path := os.Getenv(notifyVariable)
	if path == "" {
		return false, nil
	}
	// Package net sends descriptors by no connected datagram socket; this one has a name that the kernel chose.
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Net: "unixgram"})
	if err != nil {
		return false, err
	}
	defer func() { _ = conn.Close() }()
	// A leading @ means the abstract namespace, to package net as to systemd.
	_, _, err = conn.WriteMsgUnix([]byte(message), rights, &net.UnixAddr{Name: path, Net: "unixgram"})
	return err == nil, err
}
