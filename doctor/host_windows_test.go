package doctor

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestExclusions(t *testing.T) {
	for path, want := range map[string]bool{
		`C:\ProgramData\Airlock\state`: true, `c:\programdata\airlock`: true, `C:\`: true, `C:\ProgramData\Air`: false, `D:\`: false, `C:\ProgramData\Airlock\state\cache`: false,
	} {
		require.Equal(t, want, covered([]string{`E:\x`, path}, `C:\ProgramData\Airlock\state`), path)
	}
}
