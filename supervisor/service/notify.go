package service

import (
	"net"
	"os"
)

// NotifyReady tells systemd that the service accepts connections (sd_notify(3)); without systemd it does
// nothing. Its failure is no reason to stop serving.
func NotifyReady() error {
	path := os.Getenv("NOTIFY_SOCKET")
	if path == "" {
		return nil
	}
	// A leading @ means the abstract namespace, to package net as to systemd.
	conn, err := net.Dial("unixgram", path)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	_, err = conn.Write([]byte("READY=1\n"))
	return err
}
