package config

import (
	"errors"
	"net/netip"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/airlock-ci/airlock/policy/imagepattern"
)

// The forms of single strings. Each returns what is wrong, to follow the quoted value, and the remedy.

func isImage(s string) (string, string) {
	if len(s) > 1024 || strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r == 0x7f }) {
		return "is not an image", `write a reference, as in "debian:13" or "registry.example.com/team/app@sha256:..."`
	}
	return "", ""
}

func isImagePattern(s string) (string, string) {
	_, err := imagepattern.Parse(s)
	var mistake *imagepattern.Mistake
	if errors.As(err, &mistake) {
		return mistake.Wrong, mistake.Remedy
	}
	return "", ""
}

func isPullPolicy(s string) (string, string) {
	policies := []string{"always", "if-not-present", "never"}
	if !slices.Contains(policies, s) {
		return "is not a pull policy", "use " + alternatives(policies)
	}
	return "", ""
}

// isServer takes the address of a name server that a sandbox can reach: sandboxes have no IPv6.
func isServer(s string) (string, string) {
	addr, err := netip.ParseAddr(s)
	switch {
	case err != nil || !addr.Is4():
		return "is not an IPv4 address", `write one without port, as in "192.0.2.53"`
	case addr.IsLoopback() || addr.IsUnspecified() || addr.IsMulticast():
		return "is not this host's address within a sandbox", "name a server that others can reach, too"
	}
	return "", ""
}

func isAddress(s string) (string, string) {
	if addr, err := netip.ParseAddr(s); err != nil || addr.Zone() != "" {
		return "is not an IP address", `write one without port, as in "192.0.2.53"`
	}
	return "", ""
}

// The patterns leave lengths to the code: every start of the airlock command compiles them, and a bounded
// repetition is compiled as many times as its bound says.
var domainPattern = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]*$`)

func isDomain(s string) (string, string) {
	if len(s) > 253 || !domainPattern.MatchString(s) {
		return "is not a domain name", `write one, as in "example.com"`
	}
	return "", ""
}

func isExtraHost(s string) (string, string) {
	host, address, _ := strings.Cut(s, ":")
	address = strings.TrimSuffix(strings.TrimPrefix(address, "["), "]")
	if wrong, _ := isDomain(host); wrong == "" {
		if wrong, _ := isAddress(address); wrong == "" {
			return "", ""
		}
	}
	return "is not a host and its address", `write "name:address", as in "registry.local:192.0.2.10"`
}

func isDirectory(s string) (string, string) {
	if filepath.Clean(s) == string(filepath.Separator) {
		return "is the root directory", "give Airlock a directory of its own"
	}
	return isAbsolute(s)
}

// isAbsolute takes the path of any directory, the root included.
func isAbsolute(s string) (string, string) {
	switch {
	case !filepath.IsAbs(s) || strings.ContainsRune(s, 0):
		return "is not an absolute path", "begin it with a /, on Windows with a drive"
	case filepath.Clean(s) != s:
		return "is not a plain path", "write " + quote(filepath.Clean(s))
	}
	return "", ""
}

func isAbsoluteOrEmpty(s string) (string, string) {
	if s == "" {
		return "", ""
	}
	return isAbsolute(s)
}

func isProgram(s string) (string, string) {
	if wrong, _ := isAbsolute(s); wrong != "" && (s == "" || strings.ContainsAny(s, "/\x00 ")) {
		return "is not a program", `write its name, as in "qemu-system-x86_64", or its absolute path`
	}
	return "", ""
}

func isKernel(s string) (string, string) {
	if wrong, _ := isAbsolute(s); s != "auto" && wrong != "" {
		return "is not a kernel", `write "auto", or the absolute path of one, as in "/boot/vmlinuz"`
	}
	return "", ""
}

var groupPattern = regexp.MustCompile(`^([A-Za-z_][A-Za-z0-9_.-]*\$?)?$`)

func isGroup(s string) (string, string) {
	if len(strings.TrimSuffix(s, "$")) > 32 || !groupPattern.MatchString(s) {
		return "is not a group's name", `write a group of this host, or "" for root alone`
	}
	return "", ""
}

func isRuntime(s string) (string, string) {
	if s != "" && s != "crun" && s != "runc" && s != "runsc" && !filepath.IsAbs(s) {
		return "is not a runtime", `use "crun", "runc", "runsc" (gVisor), or the absolute path of one`
	}
	return "", ""
}

var cgroupPattern = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.@:-]*(/[A-Za-z0-9_][A-Za-z0-9_.@:-]*)*$`)

func isCgroup(s string) (string, string) {
	if len(s) > 200 || !cgroupPattern.MatchString(s) {
		return "is not a cgroup below the root", `write names joined by /, as in "airlock" or "ci.slice/airlock", without a / in front`
	}
	return "", ""
}

func isListenAddress(s string) (string, string) {
	const remedy = `write address and port, as in "127.0.0.1:9402"`
	if s == "" {
		return "", ""
	}
	host, port, ok := cutPort(s)
	if !ok || port == "" {
		return "is not an address to listen on", remedy
	}
	if host != "" && host != "localhost" {
		if wrong, _ := isAddress(host); wrong != "" {
			return "is not an address to listen on", remedy
		}
	}
	return "", ""
}

// cutPort splits "host:port", "[v6]:port" or ":port" and reports whether the port is one.
func cutPort(s string) (host, port string, ok bool) {
	i := strings.LastIndexByte(s, ':')
	if i < 0 {
		return s, "", true
	}
	host, port = s[:i], s[i+1:]
	if strings.HasPrefix(host, "[") != strings.HasSuffix(host, "]") || strings.Contains(host, ":") && !strings.HasPrefix(host, "[") {
		return "", "", false
	}
	n, err := strconv.ParseUint(port, 10, 16)
	return strings.Trim(host, "[]"), port, err == nil && n > 0
}

var bridgePattern = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_-]*$`)

func isBridge(s string) (string, string) {
	if len(s) > 11 || !bridgePattern.MatchString(s) {
		return "is not a bridge's name", `write 1 to 11 letters, digits, "_" or "-", as in "airlock0"`
	}
	return "", ""
}

func isSubnet(s string) (string, string) {
	prefix, err := netip.ParsePrefix(s)
	switch {
	case err != nil || !prefix.Addr().Is4():
		return "is not an IPv4 network", `write one in CIDR form, as in "172.29.0.0/16"`
	case prefix.Bits() < 16 || prefix.Bits() > 28:
		return "is too wide or too narrow", "use a prefix length from 16 to 28: each sandbox needs one address"
	case prefix.Masked() != prefix:
		return "has host bits set", "write " + quote(prefix.Masked().String())
	}
	return "", ""
}

// isDestination takes an IPv4 address or network, with or without a port: sandboxes have no IPv6.
func isDestination(s string) (string, string) {
	const remedy = `write "address", "address:port", "network/length" or "network/length:port" of IPv4, as in "10.1.2.3:443"`
	host, _, ok := cutPort(s)
	if !ok || strings.HasPrefix(s, "[") {
		return "is not a destination", remedy
	}
	if addr, err := netip.ParseAddr(host); err == nil && addr.Is4() {
		return "", ""
	}
	prefix, err := netip.ParsePrefix(host)
	if err != nil || !prefix.Addr().Is4() {
		return "is not a destination", remedy
	}
	if prefix.Masked() != prefix {
		return "has host bits set", "write " + quote(prefix.Masked().String()+strings.TrimPrefix(s, host))
	}
	return "", ""
}

func isRegistry(s string) (string, string) {
	host, _, ok := cutPort(s)
	if wrong, _ := isDomain(host); ok && wrong == "" {
		return "", ""
	}
	if wrong, _ := isAddress(host); ok && wrong == "" {
		return "", ""
	}
	return "is not a registry's host", `write host or host:port without scheme and path, as in "registry.local:5000"`
}
