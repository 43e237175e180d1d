package agent

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
)

// usageFiles are where a guest's kernel counts, opened before any code of the job ran.
type usageFiles struct {
	vmstat, pids *os.File
}

func openUsage() (*usageFiles, error) {
	vmstat, err1 := os.Open("/proc/vmstat")
	pids, err2 := os.Open(skeleton + guestCgroups + "/pids.current")
	if err := errors.Join(err1, err2); err != nil {
		return nil, fmt.Errorf("opening the counters of the guest's kernel: %w", err)
	}
	return &usageFiles{vmstat, pids}, nil
}

// read returns what is counted now; 0 for what the kernel does not count.
func (u *usageFiles) read() *Usage {
	content := readAgain(u.pids)
	pids, _ := strconv.ParseInt(string(bytes.TrimSpace(content)), 10, 64)
	return &Usage{PIDs: pids, OOMKills: u.oomKills()}
}

// oomKills is how many processes the guest's kernel has killed for want of memory.
func (u *usageFiles) oomKills() int64 {
	const key = "\noom_kill "
	_, after, found := bytes.Cut(readAgain(u.vmstat), []byte(key))
	if !found {
		return 0
	}
	line, _, _ := bytes.Cut(after, []byte("\n"))
	kills, _ := strconv.ParseInt(string(line), 10, 64)
	return kills
}

func readAgain(file *os.File) []byte {
	content, _ := io.ReadAll(io.NewSectionReader(file, 0, 64<<10))
	return content
}
