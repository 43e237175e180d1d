package fault_test

import (
	"errors"
	"fmt"
	"io"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/airlock-ci/airlock/internal/fault"
)

func TestClassesAndExitCodes(t *testing.T) {
	for name, c := range map[string]struct {
		err   error
		class fault.Class
		code  int
		text  string
	}{
		"nobody classified it":  {io.EOF, fault.System, 2, "EOF"},
		"the system's":          {fault.Systemf("no disk: %w", io.EOF), fault.System, 2, "no disk: EOF"},
		"the author's":          {fault.Authorf("no such image"), fault.Author, 1, "no such image"},
		"the administrator's":   {fault.Adminf("refused"), fault.Admin, 1, "refused"},
		"under a plain error":   {fmt.Errorf("pulling: %w", fault.Authorf("denied")), fault.Author, 1, "pulling: denied"},
		"the outermost decides": {fault.Systemf("helper: %w", fault.Authorf("denied")), fault.System, 2, "helper: denied"},
		"with a remedy":         {fault.WithRemedy(fault.Adminf("refused"), "ask"), fault.Admin, 1, "refused (ask)"},
		"joined":                {errors.Join(io.EOF, fault.Authorf("denied")), fault.Author, 1, "EOF\ndenied"},
	} {
		t.Run(name, func(t *testing.T) {
			require.Equal(t, c.class, fault.ClassOf(c.err))
			require.Equal(t, c.code, fault.ExitCode(c.err))
			require.EqualError(t, c.err, c.text)
		})
	}
	require.Zero(t, fault.ExitCode(nil))
	require.NoError(t, fault.WithRemedy(nil, "nothing"))
	require.ErrorIs(t, fault.WithRemedy(fault.Systemf("%w", io.EOF), "wait"), io.EOF)
	require.Equal(t, "system author admin", fmt.Sprint(fault.System, fault.Author, fault.Admin))
}
