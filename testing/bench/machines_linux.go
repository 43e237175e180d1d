package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/rs/zerolog"

	"github.com/airlock-ci/airlock/cache"
	"github.com/airlock-ci/airlock/isolation"
	"github.com/airlock-ci/airlock/isolation/microvm"
	"github.com/airlock-ci/airlock/testing/guestkernel"
)

// What a clone of a template may cost, beside a boot and beside a container of docker's.
const (
	answerToBoot   = 0.1
	answerToDocker = 0.6
	doneToDocker   = 1.5
	idleTarget     = 32 << 20 // bytes
)

// idleClones are how many clones are left idle at once to see what each takes.
var idleClones = []int{1, 10, 50}

// machineLimits are those of the measured machines: small ones, with the one processor that an emulator is best at.
var machineLimits = isolation.Limits{CPUs: 1, Memory: 256 << 20}

// machines measures virtual machines: booted, and cloned from a template.
func (b *bench) machines(ctx context.Context) ([]*section, error) {
	lab, err := b.startLab(ctx)
	if err != nil {
		return nil, err
	}
	defer lab.close()
	s := &section{title: "a virtual machine from a cached image"}
	docker, err := b.startDocker(ctx)
	if err != nil {
		return nil, err
	}
	var turns []turn
	var none *series
	if docker == nil {
		s.note("no docker to compare with: dockerd is not installed (apt-get install docker.io)")
	} else {
		defer docker.close()
		none = s.row("docker run --network none", nil, 0)
		turns = append(turns, docker.container("none", none))
	}
	booted := s.row("boot: the agent answers", none, 0)
	bootDone := s.row("boot: the first command is done", none, 0)
	cloned := s.row("clone: the agent answers", booted, answerToBoot)
	beside := s.row("clone: the agent answers, beside docker", none, answerToDocker)
	cloneDone := s.row("clone: the first command is done", none, 0)
	second := s.row("clone: a second command", none, 0)
	adopted := s.row("waiting clone: it has heard who it is", booted, 0)
	adoptedDone := s.row("waiting clone: the first command is done", none, doneToDocker)
	turns = append(turns,
		lab.machine(lab.booting, booted, nil, bootDone, nil),
		lab.machine(lab.cloning, cloned, beside, cloneDone, second),
		lab.machine(lab.waiting, adopted, nil, adoptedDone, nil))
	s.note("Machines of 256 MiB with one vCPU and no network, by %s; times from the call, so that QEMU's start is in them. "+
		"The agent answers when it has heard what it is to become; the first command is done when `echo` has ended in the sandbox: "+
		"reseeded, disks mounted, confined. Scratches are made before. A waiting clone is what the service takes with pool = 1, its "+
		"default, unless jobs start faster than clones are made; it was restored, and has warmed up, before.", lab.accelerator)
	if err := rounds(ctx, b.rounds, turns, s); err != nil {
		return nil, err
	}
	density := &section{title: "memory of idle clones"}
	return []*section{s, density}, lab.idle(ctx, density)
}

// lab makes machines without an Airlock around them: the cache's disks and the runtime.
type lab struct {
	cache            *cache.Cache
	base             cache.Base
	booting, cloning *microvm.Runtime
	waiting          *microvm.Runtime // with one machine in its pool
	kernel, agent    string
	dir              string
	accelerator      microvm.Accelerator
	answered         chan time.Duration // of the machine that was started last
	count            int
}

func (b *bench) startLab(ctx context.Context) (_ *lab, err error) {
	l := &lab{answered: make(chan time.Duration, 1), agent: filepath.Join(b.dir, "bin/airlock-agent"), dir: filepath.Join(b.dir, "machines")}
	defer func() {
		if err != nil {
			l.close()
		}
	}()
	if l.kernel, err = guestkernel.Dir(); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(l.dir, 0o700); err != nil {
		return nil, err
	}
	if l.cache, err = cache.New(cache.Options{Dir: filepath.Join(l.dir, "cache"), RunDir: filepath.Join(l.dir, "run"), Logger: zerolog.Nop()}); err != nil {
		return nil, err
	}
	if l.base, err = l.cache.Base(ctx, cache.Request{
		Image: "docker-archive:" + b.busybox, PullPolicy: cache.PullIfNotPresent, Holder: "bench", AllowLocal: true, Form: cache.FormDisk,
	}, nil); err != nil {
		return nil, err
	}
	for r, edit := range map[**microvm.Runtime]func(*microvm.Options){
		&l.booting: func(o *microvm.Options) { o.NoTemplates = true },
		&l.cloning: func(*microvm.Options) {},
		&l.waiting: func(o *microvm.Options) { o.Pool = 1 },
	} {
		if *r, err = l.runtime(edit); err != nil {
			return nil, err
		}
	}
	if l.accelerator, err = l.booting.Probe(ctx); err != nil {
		return nil, err
	}
	return l, nil
}

func (l *lab) runtime(edit func(*microvm.Options)) (*microvm.Runtime, error) {
	l.count++
	options := microvm.Options{
		KernelDir: l.kernel, AllowEmulation: true, AgentPath: l.agent, StateDir: filepath.Join(l.dir, "state"),
		RunDir: filepath.Join(l.dir, fmt.Sprintf("run-%d", l.count)), CgroupParent: filepath.Base(filepath.Dir(l.dir)), Logger: zerolog.New(l),
	}
	edit(&options)
	return microvm.New(options)
}

// Write takes the events of the runtimes, and keeps what they say of a machine that has started.
func (l *lab) Write(line []byte) (int, error) {
	var event struct {
		Message  string  `json:"message"`
		Answered float64 `json:"answered_ms"`
	}
	if json.Unmarshal(line, &event) == nil && event.Message == "machine started" {
		l.answered <- time.Duration(event.Answered * float64(time.Millisecond))
	}
	return len(line), nil
}

// machine is a turn of one machine that runs a command or two.
func (l *lab) machine(r *microvm.Runtime, answer, same, first, second *series) turn {
	return func(ctx context.Context) error {
		spec, discard, err := l.spec(ctx)
		if err != nil {
			return err
		}
		defer discard()
		if err := r.Warm(ctx, machineLimits, false); err != nil { // nothing for those that boot
			return err
		}
		began := time.Now()
		sandbox, err := r.Create(ctx, spec)
		if err != nil {
			return err
		}
		err = echo(ctx, sandbox)
		first.add(time.Since(began))
		took := <-l.answered
		answer.add(took)
		if same != nil {
			same.add(took)
		}
		if second != nil && err == nil {
			again := time.Now()
			err = echo(ctx, sandbox)
			second.add(time.Since(again))
		}
		return errors.Join(err, sandbox.Destroy(context.WithoutCancel(ctx)))
	}
}

// spec is that of a new machine; discard removes its scratch.
func (l *lab) spec(ctx context.Context) (spec isolation.Spec, discard func(), err error) {
	l.count++
	id := fmt.Sprintf("al-bench-%d", l.count)
	scratch, err := l.cache.NewScratch(ctx, cache.ScratchRequest{ID: id, Size: 2 << 30, Form: cache.FormDisk})
	if err != nil {
		return spec, nil, err
	}
	return isolation.Spec{
		ID: id, Hostname: "bench", ScratchDisk: scratch.Disk, Limits: machineLimits,
		Image: isolation.Root{Disk: l.base.Disk, Config: isolation.ImageConfig{Env: l.base.Config.Env}},
	}, func() { _ = l.cache.DestroyScratch(context.WithoutCancel(ctx), id) }, nil
}

func echo(ctx context.Context, sandbox isolation.Sandbox) error {
	process, err := sandbox.Start(ctx, isolation.ProcessSpec{Args: []string{"echo", "done"}})
	if err != nil {
		return err
	}
	exit, err := process.Wait()
	if err == nil && exit.Code != 0 {
		err = fmt.Errorf("echo in a machine ended with status %d", exit.Code)
	}
	return err
}

// idle measures the memory of clones that do nothing: those that wait, and those that were made sandboxes.
func (l *lab) idle(ctx context.Context, s *section) error {
	s.note("PSS of QEMU, which counts what clones share with each other by its share; measured half a second after the last has started. " +
		"A waiting clone was restored, and its agent answers; one that is emulated and has warmed up, as with the default, is larger. " +
		"A ready sandbox has mounted its disks and run nothing yet. What the template's own file holds is not in it: it is there once, whatever the number.")
	for _, n := range idleClones {
		if err := l.idleWaiting(ctx, n, true, s); err != nil {
			return err
		}
	}
	if err := l.idleWaiting(ctx, 10, false, s); err != nil {
		return err
	}
	return l.idleSandboxes(ctx, s)
}

// idleWaiting measures n clones of a pool.
func (l *lab) idleWaiting(ctx context.Context, n int, plain bool, s *section) (err error) {
	r, err := l.runtime(func(o *microvm.Options) { o.Pool, o.NoWarmUp = n, plain })
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	if err := r.Warm(ctx, machineLimits, false); err != nil {
		return err
	}
	name, target := fmt.Sprintf("each of %d idle clones", n), int64(0)
	if !plain {
		name = fmt.Sprintf("each of %d that have warmed up", n)
	} else if n == idleClones[len(idleClones)-1] {
		target = idleTarget
	}
	return s.weigh(name, n, target)
}

// idleSandboxes measures clones that were made sandboxes.
func (l *lab) idleSandboxes(ctx context.Context, s *section) (err error) {
	const n = 10
	for range n {
		spec, discard, err := l.spec(ctx)
		if err != nil {
			return err
		}
		defer discard()
		sandbox, err := l.cloning.Create(ctx, spec)
		if err != nil {
			return err
		}
		<-l.answered
		defer func() { _ = sandbox.Destroy(context.WithoutCancel(ctx)) }()
	}
	return s.weigh(fmt.Sprintf("each of %d ready sandboxes", n), n, 0)
}

// weigh adds what each of n machines takes in half a second.
func (s *section) weigh(name string, n int, target int64) error {
	time.Sleep(500 * time.Millisecond)
	pss, err := machinesPSS()
	if err != nil {
		return err
	}
	s.sizes = append(s.sizes, size{name, pss / int64(n), target})
	return nil
}

// machinesPSS sums the proportional set size of all QEMU children of this process, in bytes: proc_pid_smaps_rollup(5).
func machinesPSS() (sum int64, err error) {
	tasks, err := filepath.Glob("/proc/self/task/*/children")
	if err != nil {
		return 0, err
	}
	for _, task := range tasks {
		children, _ := os.ReadFile(task) // a thread may have ended
		for _, pid := range strings.Fields(string(children)) {
			name, _ := os.ReadFile("/proc/" + pid + "/comm")
			if !strings.HasPrefix(string(name), "qemu-system") {
				continue
			}
			pss, err := processPSS(pid)
			if err != nil {
				return 0, err
			}
			sum += pss
		}
	}
	return sum, nil
}

func processPSS(pid string) (int64, error) {
	file, err := os.Open("/proc/" + pid + "/smaps_rollup")
	if err != nil {
		return 0, err
	}
	defer func() { _ = file.Close() }()
	for lines := bufio.NewScanner(file); lines.Scan(); {
		if fields := strings.Fields(lines.Text()); len(fields) == 3 && fields[0] == "Pss:" {
			kib, err := strconv.ParseInt(fields[1], 10, 64)
			return kib << 10, err
		}
	}
	return 0, fmt.Errorf("no PSS of process %s", pid)
}

// close gives everything back; it may be called on half a lab.
func (l *lab) close() {
	for _, r := range []*microvm.Runtime{l.booting, l.cloning, l.waiting} {
		if r != nil {
			_ = r.Close()
		}
	}
	if l.cache != nil {
		l.cache.Release("bench")
		_ = l.cache.Close()
	}
}
