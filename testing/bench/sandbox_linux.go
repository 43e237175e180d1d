package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/airlock-ci/airlock/testing/images"
	"github.com/airlock-ci/airlock/testing/rootfs"
)

// How many bare containers a ready sandbox may cost.
const (
	noneTarget = 3
	natTarget  = 4
)

// steps of making a sandbox, in their order. The scratch and the network are made side by side.
var steps = []string{"policy", "image", "scratch", "network", "sandbox"}

// sandboxes measures fresh containers of a cached busybox that run `true`.
func (b *bench) sandboxes(ctx context.Context) ([]*section, error) {
	s := &section{title: "a sandbox from a cached image"}
	crun := s.row("crun run", nil, 0)
	turns := []turn{}
	bare, err := b.bareContainer(crun)
	if err != nil {
		return nil, err
	}
	turns = append(turns, bare)
	phases := &section{title: "where the time of a ready sandbox goes"}
	for _, network := range []struct {
		mode   string
		target float64
	}{{"none", noneTarget}, {"nat", natTarget}} {
		ready := s.row("airlock: sandbox ready, network "+network.mode, crun, network.target)
		whole := s.row("airlock run --network "+network.mode, crun, 0)
		turns = append(turns, b.sandbox(network.mode, ready, whole, phases))
	}
	docker, err := b.startDocker(ctx)
	switch {
	case err != nil:
		return nil, err
	case docker == nil:
		s.note("no docker beside it: dockerd is not installed (apt-get install docker.io)")
	default:
		defer docker.close()
		for _, network := range []string{"none", "host"} {
			turns = append(turns, docker.container(network, s.row("docker run --network "+network, crun, 0)))
		}
	}
	s.note("crun run is bare: a root that is there already, its own network namespace without anything in it, " +
		"no seccomp filter, no limits, no helper root, and it ends by itself. A sandbox is ready when its agent " +
		"answers; airlock run is the whole command, with the sandbox's end.")
	return []*section{s, phases}, rounds(ctx, b.rounds, turns, s, phases)
}

// sandbox runs `airlock run` and takes down what the command took, and what the executor says the sandbox took.
func (b *bench) sandbox(network string, readyRow, whole *series, phases *section) turn {
	rows := map[string]*series{}
	for _, step := range steps {
		rows[step] = phases.row("network "+network+": "+step, readyRow, 0)
	}
	return func(ctx context.Context) error {
		b.drain()
		took, err := timed(ctx, b.airlock.Airlock("run", "--network", network, "--image", images.BusyboxName, "--", "true"))
		if err != nil {
			return err
		}
		whole.add(took)
		r, err := next(b.ready)
		if err != nil {
			return err
		}
		readyRow.add(r.total)
		for step, row := range rows {
			row.add(r.steps[step])
		}
		return nil
	}
}

// drain forgets what the executor said about sandboxes of earlier parts.
func (b *bench) drain() {
	for len(b.ready) > 0 {
		<-b.ready
	}
}

// bareContainer prepares a bundle with what `crun spec` writes, but for the command and the terminal, and
// returns a turn of running it.
func (b *bench) bareContainer(row *series) (turn, error) {
	bundle := filepath.Join(b.dir, "bundle")
	if err := rootfs.Busybox(filepath.Join(bundle, "rootfs")); err != nil {
		return nil, err
	}
	cmd := exec.Command("crun", "spec")
	cmd.Dir = bundle
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("crun spec: %w: %s", err, out)
	}
	path := filepath.Join(bundle, "config.json")
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var spec map[string]any
	if err := json.Unmarshal(text, &spec); err != nil {
		return nil, err
	}
	process, ok := spec["process"].(map[string]any)
	if !ok {
		return nil, fmt.Errorf("crun spec wrote no process: %s", text)
	}
	process["terminal"], process["args"] = false, []string{"true"}
	if text, err = json.Marshal(spec); err != nil {
		return nil, err
	}
	if err := os.WriteFile(path, text, 0o600); err != nil {
		return nil, err
	}
	count := 0
	return func(ctx context.Context) error {
		count++
		id := fmt.Sprintf("%s-%d", filepath.Base(b.dir), count)
		took, err := timed(ctx, exec.Command("crun", "--root", filepath.Join(b.dir, "crun"), "run", "--bundle", bundle, id))
		row.add(took)
		return err
	}, nil
}
