package executor

import "github.com/airlock-ci/airlock/api/control"

// openEntrances takes the sockets that the supervisor made.
var openEntrances control.Open = control.OpenSockets
