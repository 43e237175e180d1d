package conformance

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/airlock-ci/airlock/isolation"
)

// Windows is Windows containers: what differs from host to host. It is meant to pass on a real one, too.
type Windows struct {
	// Separate says that sandboxes have a C: of their own. The simulator's shared guests have not.
	Separate bool
	// ImageFile is a file of the image with the text "base"; empty for images that have none, Microsoft's own.
	ImageFile string
}

// tool is the program in the helper directory; see WindowsTool.
const tool = `C:\airlock\helper\tool.exe`

// WindowsTool is what tool.exe does in a sandbox: the test's program has to call it from TestMain when its first
// argument is "tool".
func WindowsTool(args []string) int {
	switch args[0] {
	case "say":
		fmt.Println(args[1])
	case "show":
		fmt.Printf("<%s>", strings.Join(args[1:], "><"))
	case "cat":
		_, _ = io.Copy(os.Stdout, os.Stdin)
	case "exit":
		n, _ := strconv.ParseUint(args[1], 10, 32)
		os.Exit(int(uint32(n)))
	case "live":
		fmt.Println("up")
		time.Sleep(time.Hour)
	case "hold":
		time.Sleep(time.Hour)
	case "count":
		n, _ := strconv.Atoi(args[1])
		var all bytes.Buffer
		for i := range n {
			fmt.Fprintln(&all, i+1)
		}
		errs := make(chan struct{})
		go func() { defer close(errs); _, _ = os.Stderr.Write(all.Bytes()) }()
		_, _ = os.Stdout.Write(all.Bytes())
		<-errs
		code, _ := strconv.Atoi(args[2])
		return code
	case "leave": // a child that holds the output, and lives
		child := exec.Command(os.Args[0], "tool", "hold")
		child.Stdout, child.Stderr = os.Stdout, os.Stderr
		if err := child.Start(); err != nil {
			fmt.Println(err)
			return 1
		}
		fmt.Println("main")
		return 4
	case "write":
		if err := os.WriteFile(args[1], []byte(args[2]), 0o666); err != nil {
			fmt.Println(err)
			return 1
		}
	case "read":
		text, err := os.ReadFile(args[1])
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		_, _ = os.Stdout.Write(text)
	}
	return 0
}

func runTool(args ...string) isolation.ProcessSpec {
	return isolation.ProcessSpec{Args: append([]string{tool, "tool"}, args...)}
}

func cmd(line string) isolation.ProcessSpec {
	return isolation.ProcessSpec{Args: []string{"cmd", "/c", line}}
}

func batch(script string) isolation.ProcessSpec {
	return isolation.ProcessSpec{Script: []byte("@echo off\r\n" + script), Shell: "cmd"}
}

func (Windows) say(text string) isolation.ProcessSpec { return runTool("say", text) }

func (Windows) exit(code int) isolation.ProcessSpec { return runTool("exit", strconv.Itoa(code)) }

func (Windows) live() isolation.ProcessSpec { return runTool("live") }

func (Windows) cat() isolation.ProcessSpec { return runTool("cat") }

func (Windows) show(args ...string) isolation.ProcessSpec {
	return runTool(append([]string{"show"}, args...)...)
}

func (Windows) variables(names ...string) isolation.ProcessSpec {
	return cmd("echo %" + strings.Join(names, "% %") + "%")
}

func (Windows) directory() isolation.ProcessSpec { return cmd("cd") }

func (Windows) list(dir string) isolation.ProcessSpec {
	return cmd("if exist " + dir + " (dir /b " + dir + ") else echo there is none")
}

func (Windows) write(path, text string) isolation.ProcessSpec { return runTool("write", path, text) }

func (Windows) read(path string) isolation.ProcessSpec { return runTool("read", path) }

func (Windows) count(numbers, code int) isolation.ProcessSpec {
	return runTool("count", strconv.Itoa(numbers), strconv.Itoa(code))
}

func (Windows) script() isolation.ProcessSpec {
	return batch("set A=1\r\necho line %A%\r\necho err>&2\r\nexit 42\r\n")
}

func (Windows) longScript() isolation.ProcessSpec { // 200 KB
	return batch("echo start\r\n" + strings.Repeat("rem padding of a long script, as runners generate them\r\n", 4000) + "echo end\r\n")
}

func (Windows) leaving() []isolation.ProcessSpec { return []isolation.ProcessSpec{runTool("leave")} }

func (Windows) left(t testing.TB, b box, before isolation.Stats) bool {
	t.Helper()
	now, err := b.Stats(deadline(t))
	require.NoError(t, err)
	return now.PIDs > before.PIDs
}

func (w Windows) places() places {
	return places{
		absent: `C:\does\not\exist`, own: `C:\builds\mine`, image: w.ImageFile, imageText: "base", scripts: `C:\airlock\scripts`,
		dirs: map[string]string{
			`C:\windows`: `c:\windows`, "C:/windows/system32": `c:\windows\system32`, "": `c:\builds`, `C:\no\such`: `c:\builds`,
		},
	}
}

func (Windows) otherExits() map[string]ended {
	return map[string]ended{
		"more than a byte": {runTool("exit", "256"), isolation.Exit{Code: 256}},
		"an exception":     {runTool("exit", "3221225477"), isolation.Exit{Code: -1073741819}}, // STATUS_ACCESS_VIOLATION
		"cmd":              {cmd("exit 3"), isolation.Exit{Code: 3}},
	}
}

func (Windows) refused() map[string]func(*isolation.Spec) {
	return map[string]func(*isolation.Spec){
		"newer than the host": func(s *isolation.Spec) { s.Image.Config.OSVersion = "10.0.65000.1" },
	}
}

func (Windows) promises() []promise {
	return []promise{
		{"any signal ends a stage", false, windowsSignal},
		{"one script is seen", false, windowsScripts},
		{"helper stages", true, windowsHelper},
		{"the helper directory is read-only", true, windowsHelperReadOnly},
		{"limits are accepted", true, windowsLimits},
	}
}

func windowsSignal(t testing.TB, env RuntimeEnv) {
	b := newBox(t, env)
	p := b.living(t)
	require.NoError(t, p.Signal(deadline(t), 15))
	exit, err := wait(t, p)
	require.NoError(t, err)
	require.Equal(t, isolation.Exit{Code: 143, Signal: 15}, exit)
}

func windowsScripts(t testing.TB, env RuntimeEnv) {
	b := newBox(t, env)
	r := b.run(t, batch("dir /b C:\\airlock\\scripts\r\n"))
	require.Len(t, strings.Fields(r.stdout), 1, "the running stage's and no other: %q", r.stdout)
}

func windowsHelper(t testing.TB, env RuntimeEnv) {
	b := newBox(t, env)
	stage := batch("tool.exe tool say found\r\n")
	require.NotZero(t, b.run(t, stage).Code, "it is in the PATH of the runner's own stages alone")
	stage.Helper = true
	r := b.run(t, stage)
	require.Equal(t, "found\n", r.lines(), r.stderr)
}

func windowsHelperReadOnly(t testing.TB, env RuntimeEnv) {
	if !env.Windows.Separate {
		return // the simulator's shared guests see links
	}
	b := newBox(t, env)
	require.NotZero(t, b.run(t, b.write(`C:\airlock\helper\x`, "x")).Code)
	require.NotZero(t, b.run(t, b.write(`C:\airlock\scripts\x`, "x")).Code)
}

func windowsLimits(t testing.TB, env RuntimeEnv) {
	b := newBox(t, env, func(s *isolation.Spec) {
		s.Limits = isolation.Limits{Memory: 512 << 20, CPUs: 0.5, PIDs: 100, Scratch: 21 << 30}
	})
	require.Zero(t, b.run(t, b.exit(0)).Code)
}
