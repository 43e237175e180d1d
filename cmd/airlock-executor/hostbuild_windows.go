package main

import (
	"fmt"

	"golang.org/x/sys/windows"
)

// windowsVersion is this host's build of Windows, "10.0.20348".
func windowsVersion() string {
	version := windows.RtlGetVersion()
	return fmt.Sprintf("%d.%d.%d", version.MajorVersion, version.MinorVersion, version.BuildNumber)
}
