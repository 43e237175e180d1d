package agent

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/airlock-ci/airlock/internal/frame"
	"github.com/airlock-ci/airlock/isolation/layout"
)

// reseed makes this machine's random numbers differ from those of every other that was restored from the same
// template.
func (s GuestSetup) reseed() error {
	random, err := os.OpenFile("/dev/urandom", os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer func() { _ = random.Close() }()
	// struct rand_pool_info: bits, bytes, the bytes.
	pool := binary.NativeEndian.AppendUint32(nil, uint32(8*len(s.Entropy)))
	pool = binary.NativeEndian.AppendUint32(pool, uint32(len(s.Entropy)))
	pool = append(pool, s.Entropy...)
	if err := ioctl(int(random.Fd()), unix.RNDADDENTROPY, unsafe.Pointer(&pool[0])); err != nil { // see random(4)
		return fmt.Errorf("adding entropy: %w", err)
	}
	return ioctl(int(random.Fd()), unix.RNDRESEEDCRNG, nil)
}

func (s GuestSetup) setClock() error {
	now := unix.NsecToTimespec(s.Now)
	if s.Now < time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC).UnixNano() {
		return fmt.Errorf("%w: the executor's clock says %s", frame.ErrProtocol, time.Unix(0, s.Now))
	}
	return unix.ClockSettime(unix.CLOCK_REALTIME, &now)
}

// setSysctls sets what a container's network namespace has, too, and makes the machine as generous with promises of
// memory as a container's large host is: by default a kernel refuses at once what is more than the machine has in all,
// even if it will never be touched.
func setSysctls() error {
	set := func(name, value string) error {
		if err := os.WriteFile("/proc/sys/"+strings.ReplaceAll(name, ".", "/"), []byte(value), 0); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		return nil
	}
	for name, value := range layout.Sysctls {
		if err := set(name, value); err != nil {
			return err
		}
	}
	if err := set("vm.overcommit_memory", "1"); err != nil {
		return err
	}
	return disableIPv6()
}

// disableIPv6 leaves IPv6 to loopback alone, as in a container: no other interface gets an address by itself.
func disableIPv6() error {
	const conf = "/proc/sys/net/ipv6/conf/"
	entries, err := os.ReadDir(conf)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // the kernel has no IPv6
	}
	if err != nil {
		return err
	}
	for _, entry := range entries { // the interfaces, and "default" for those to come
		if name := entry.Name(); name != "all" && name != "lo" {
			if err := os.WriteFile(conf+name+"/disable_ipv6", []byte("1"), 0); err != nil {
				return fmt.Errorf("switching IPv6 off: %w", err)
			}
		}
	}
	return nil
}
