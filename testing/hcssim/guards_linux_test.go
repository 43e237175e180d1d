package hcssim_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/airlock-ci/airlock/testing/hcssim"
)

// recorder is a test that may fail without the real one failing.
type recorder struct {
	testing.TB
	failures []string
	cleanups []func()
}

func (r *recorder) Errorf(format string, args ...any) {
	r.failures = append(r.failures, fmt.Sprintf(format, args...))
}
func (r *recorder) Cleanup(f func()) { r.cleanups = append(r.cleanups, f) }

func (r *recorder) end() string {
	for i := len(r.cleanups) - 1; i >= 0; i-- {
		r.cleanups[i]()
	}
	return strings.Join(r.failures, "\n")
}

// TestGuards: a test fails at its end for each rule that its program broke, and for all that it left; and not otherwise.
func TestGuards(t *testing.T) {
	binary := hcssim.TestBinary(t, client)
	tests := []struct {
		name, test string
		fault      hcssim.Fault
		options    hcssim.Options
		want       []string
	}{
		{name: "nothing", test: "TestScratchLife"},
		{name: "a rule", test: "TestFaultPrivileges", want: []string{"a rule was broken: ProcessBaseImage: privileges", "layer files"}},
		{name: "a rule that may be broken", test: "TestFaultPrivileges", options: hcssim.Options{KeepRules: true}},
		{
			name: "leaks", test: "TestScratchLife", fault: hcssim.Fault{Call: "UnprepareLayer", KillClient: true},
			want: []string{`scratch C:\ProgramData\hcssim-test\scratch-life is mounted`, `scratch-life is there`},
		},
		{name: "a handle", test: "TestFaultHandle", want: []string{"ended with a handle of process"}},
		{name: "leaks that may be", test: "TestScratchLife", fault: hcssim.Fault{Call: "UnprepareLayer", KillClient: true}, options: hcssim.Options{KeepLeaks: true}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			r := &recorder{TB: t}
			s := hcssim.Start(r, test.options)
			if test.fault.Call != "" {
				s.Fault(test.fault)
			}
			run(s, binary, test.test)
			failures := r.end()
			if len(test.want) == 0 {
				require.Empty(t, failures)
			}
			for _, want := range test.want {
				require.Contains(t, failures, want)
			}
		})
	}
}
