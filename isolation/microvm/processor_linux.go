package microvm

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"time"

	"github.com/airlock-ci/airlock/internal/fault"
)

// processorTimeout is how long QEMU may take to describe a processor: it loads, and starts nothing.
const processorTimeout = 30 * time.Second

// levels are what each level of the x86-64 ABI adds to the one below, by QEMU's names of the features ("x86-64 psABI",
// 3.1.1, Micro-Architecture Levels).
var levels = []struct {
	name     string
	features []string
}{
	{"v1", nil},
	{"v2", []string{"cx16", "lahf-lm", "popcnt", "pni", "ssse3", "sse4.1", "sse4.2"}},
	{"v3", []string{"avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe", "xsave"}},
	{"v4", []string{"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}},
}

// ProcessorVariant returns the level of the x86-64 ABI that programs in guests can use, "v1" to "v4". It is not the host's
// where machines are emulated. What QEMU gives its best processor decides; it is asked once, with the probe of the accelerator.
func (r *Runtime) ProcessorVariant(ctx context.Context) (string, error) {
	accel, err := r.Probe(ctx)
	if err != nil {
		return "", err
	}
	r.processor.Lock()
	defer r.processor.Unlock()
	if r.processor.variant == "" {
		features, err := r.processorFeatures(ctx, accel)
		if err != nil {
			return "", fault.Systemf("asking QEMU what its processors can do: %w", err)
		}
		r.processor.variant = levelOf(features)
	}
	return r.processor.variant, nil
}

func levelOf(features map[string]any) string {
	found := levels[0].name
	for _, level := range levels {
		for _, feature := range level.features {
			if features[feature] != true {
				return found
			}
		}
		found = level.name
	}
	return found
}

// processorFeatures asks a QEMU without a machine (QMP, query-cpu-model-expansion).
func (r *Runtime) processorFeatures(ctx context.Context, accel Accelerator) (map[string]any, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, processorTimeout, errors.New("it took too long"))
	defer cancel()
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, r.options.QEMU, "-machine", "none", "-nodefaults", "-no-user-config", "-display", "none",
		"-accel", string(accel), "-qmp", "stdio")
	cmd.Stdin = strings.NewReader(`{"execute":"qmp_capabilities"}
{"execute":"query-cpu-model-expansion","arguments":{"type":"full","model":{"name":"max"}}}
{"execute":"quit"}
`)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("%w: %s", err, strings.TrimSpace(stderr.String()))
	}
	decoder := json.NewDecoder(&stdout)
	for {
		var reply struct {
			Return struct {
				Model struct {
					Props map[string]any `json:"props"`
				} `json:"model"`
			} `json:"return"`
		}
		if err := decoder.Decode(&reply); err != nil {
			return nil, fmt.Errorf("it did not say: %w", err)
		}
		if reply.Return.Model.Props != nil {
			return reply.Return.Model.Props, nil
		}
	}
}
