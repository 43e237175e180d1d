package microvm

import (
	"testing"
	"time"
)

func TestFirstCommand(t *testing.T) {
	bench := newBench(t)
	began := time.Now()
	box := bench.box(t, bench.newRuntime(t), bench.spec(t))
	t.Logf("create %s", time.Since(began))
	began = time.Now()
	t.Log(shell(t, box, "uname -a; id; cat /proc/mounts; ls -la / /dev; cat /proc/self/status | grep -E 'Cap|Secc|NoNew'; ps; free; ls /sys/class/net"))
	t.Logf("command %s", time.Since(began))
	t.Logf("console: %s", box.vm.console.text())
}
