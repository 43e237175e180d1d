package wire

import (
	"errors"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/airlock-ci/airlock/executor/api"
	"github.com/airlock-ci/airlock/internal/fault"
)

func TestClassesSurviveTheWire(t *testing.T) {
	for _, err := range []error{fault.Authorf("a"), fault.WithRemedy(fault.Adminf("b"), "c"), fault.Systemf("d")} {
		require.Equal(t, fault.ClassOf(err), fault.ClassOf(FromStatus(ToStatus(err))))
		require.EqualError(t, FromStatus(ToStatus(err)), err.Error())
		require.Equal(t, fault.ClassOf(err), fault.ClassOf(ResultError(FailureResult(err))))
		require.EqualError(t, ResultError(FailureResult(err)), err.Error())
	}
	require.NoError(t, FromStatus(ToStatus(nil)))
	require.NoError(t, ResultError(&api.Result{Ok: true, ExitCode: 3}))
	require.Equal(t, fault.System, fault.ClassOf(FromStatus(ToStatus(errors.New("unclassified")))))
	require.Equal(t, fault.Admin, fault.ClassOf(FromStatus(status.Error(codes.PermissionDenied, "root only"))))
}

func TestAFailureAlwaysHasAMessage(t *testing.T) {
	require.ErrorContains(t, ResultError(&api.Result{}), "gave no reason")
}
