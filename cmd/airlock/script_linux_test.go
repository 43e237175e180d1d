package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/airlock-ci/airlock/api"
	"github.com/airlock-ci/airlock/testing/gitlabtest"
	"github.com/airlock-ci/airlock/testing/standin"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"airlock": main})
}

// hostKey is where a script's stand-in for the service is kept.
type hostKey struct{}

// TestScripts runs the command line as administrators do, against a stand-in for the service that has two
// sandboxes, two images and two leftovers and runs commands as plain processes.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(env *testscript.Env) error {
			host := exampleHost()
			env.Values[hostKey{}] = host
			env.Setenv("AIRLOCK_SOCKET", standin.Serve(env.T().(testing.TB), host))
			return nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"host":     changeHost,
			"opened":   wantOpened,
			"imported": wantImported,
			"status":   wantStatus,
			"json":     wantJSON,
			"keys":     writeKeys,
		},
	})
}

func exampleHost() *standin.Executor {
	created := time.Now().Add(-90 * time.Second).UnixNano()
	return &standin.Executor{
		Sandboxes: []*api.SandboxInfo{
			{
				ID: "al-0123456789ab", JobID: 4711, Project: "group/project", Isolation: "process", Reason: "configuration", Rule: "trusted", Policy: "sha256:3f2a",
				Runtime: "crun", Image: "alpine:3.22", Digest: "sha256:4bcff63911fcb4448bd4fdacec207030997caf25e9bea4045fa6c8c44de311d1",
				State: "running", Stage: "build_script", CreatedUnixNano: created, Network: "nat", Address: "172.29.0.2",
				CPUs: 1.5, MemoryBytes: 64 << 20, MemoryLimitBytes: 4 << 30, PIDs: 7, PIDsLimit: 4096,
				ScratchUsedBytes: 3 << 20, ScratchBytes: 20 << 30,
				Steps: []*api.Step{{Name: "base", Nanoseconds: 120e6}, {Name: "sandbox", Nanoseconds: 14123456}},
			},
			{
				ID: "al-ba9876543210", Isolation: "hypervisor", Runtime: "qemu-kvm", Image: "evil\x1b[2Jimage", State: "ready",
				CreatedUnixNano: created, Network: "none", CPUs: 1.5,
				Machine: &api.Machine{VCPUs: 2, MemoryBytes: 512 << 20, Accelerator: "kvm", Kernel: "6.1.0-56-cloud-amd64"},
			},
		},
		ImageList: []*api.ImageInfo{
			{Name: "alpine:3.22", Digest: "sha256:4bcff63911fcb4448bd4fdacec207030997caf25e9bea4045fa6c8c44de311d1",
				SizeBytes: 8 << 20, CreatedUnixNano: created, LastUsedUnixNano: created, Leases: 1, Inodes: 519, Pinned: true},
			{Name: "busybox:1", Digest: "sha256:ab33eacc8251e3807b85bb6dba570e4698c3998eca6f0fc2ccb60575a563ea74", SizeBytes: 1536 << 20, Inodes: 12_345},
		},
		EventLines: []string{
			`{"level":"info","sandbox":"al-0123456789ab","job":4711,"took_ms":17.5,"time":"2026-11-23T14:05:06Z","message":"sandbox_ready"}`,
			`{"level":"warn","job":4712,"error":"no such image","time":"2026-11-23T14:05:07Z","message":"line\nbreak"}`,
			`not JSON`,
		},
		Leftovers: []*api.Leftover{
			{Kind: "link", Name: "al-dead", Sandbox: "al-dead00000000"},
			{Kind: "scratch", Name: "/var/lib/airlock/scratch/x"},
		},
	}
}

func hostOf(ts *testscript.TestScript) *standin.Executor {
	return ts.Value(hostKey{}).(*standin.Executor)
}

// changeHost is "host empty", "host log TEXT", "host protocol N", "host fail CLASS MESSAGE", "host stuck".
func changeHost(ts *testscript.TestScript, _ bool, args []string) {
	h := hostOf(ts)
	switch args[0] {
	case "empty":
		h.Sandboxes, h.ImageList, h.EventLines, h.Leftovers = nil, nil, nil, nil
	case "log":
		h.Log = args[1] + "\n"
	case "protocol":
		n, err := strconv.ParseUint(args[1], 10, 32)
		ts.Check(err)
		h.Protocol = uint32(n)
	case "fail":
		h.Fail = standin.Failure(args[1], args[2])
	case "stuck":
		h.Leftovers[0].Error = "device or resource busy"
	default:
		ts.Fatalf("unknown: host %s", args[0])
	}
}

// wantOpened is "opened JSON": the last call, as {"OP":BODY}.
func wantOpened(ts *testscript.TestScript, _ bool, args []string) {
	opened := hostOf(ts).Opened()
	if len(opened) == 0 {
		ts.Fatalf("nothing was opened")
	}
	last := opened[len(opened)-1]
	got, err := json.Marshal(map[api.Op]json.RawMessage{last.Op: last.Body})
	ts.Check(err)
	if compact(ts, string(got)) != compact(ts, args[0]) {
		ts.Fatalf("opened %s", got)
	}
}

func compact(ts *testscript.TestScript, text string) string {
	var out bytes.Buffer
	ts.Check(json.Compact(&out, []byte(text)))
	return out.String()
}

// wantImported is "imported FILE": what was imported is that file.
func wantImported(ts *testscript.TestScript, _ bool, args []string) {
	if string(hostOf(ts).Imported()) != ts.ReadFile(args[0]) {
		ts.Fatalf("something else than %s was imported", args[0])
	}
}

// wantStatus is "status N COMMAND ARG...": the command ends with status N.
func wantStatus(ts *testscript.TestScript, _ bool, args []string) {
	err := ts.Exec(args[1], args[2:]...)
	got := 0
	if err != nil {
		exit, ok := err.(interface{ Sys() any })
		if !ok {
			ts.Fatalf("%v", err)
		}
		got = exit.Sys().(syscall.WaitStatus).ExitStatus()
	}
	if fmt.Sprint(got) != args[0] {
		ts.Fatalf("status %d, want %s", got, args[0])
	}
}

// writeKeys is "keys FILE": it writes an issuer's keys beside a configuration, which gets their absolute path.
func writeKeys(ts *testscript.TestScript, _ bool, args []string) {
	ts.Check(os.WriteFile(ts.MkAbs("keys.json"), gitlabtest.NewIssuer("https://gitlab.example.com").JWKS(), 0o600))
	text := strings.ReplaceAll(ts.ReadFile(args[0]), "$WORK", ts.Getenv("WORK"))
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(text), 0o600))
}

// wantJSON is "json FILE PATH WANT": the value at the dotted path of a JSON file; "len" is a list's length.
func wantJSON(ts *testscript.TestScript, _ bool, args []string) {
	var v any
	ts.Check(json.Unmarshal([]byte(ts.ReadFile(args[0])), &v))
	for _, step := range strings.Split(args[1], ".") {
		switch at := v.(type) {
		case map[string]any:
			value, ok := at[step]
			if !ok {
				ts.Fatalf("there is no %s", args[1])
			}
			v = value
		case []any:
			if step == "len" {
				v = len(at)
				continue
			}
			i, err := strconv.Atoi(step)
			ts.Check(err)
			v = at[i]
		}
	}
	if got := fmt.Sprint(v); got != args[2] {
		ts.Fatalf("%s is %s, want %s", args[1], got, args[2])
	}
}
