package supervisor

import (
	"github.com/airlock-ci/airlock/api/control"
)

// entrances are where callers are let in: the service's own socket, and those of runner classes.
func (o Options) entrances() []*control.Entrance {
	own := o.SocketPath
	if own == "" {
		own = DefaultSocket(o.RunDir)
	}
	all := []*control.Entrance{{Path: own, Group: o.Group}}
	for _, s := range o.Sockets {
		all = append(all, &control.Entrance{Path: s.Path, Group: s.Group, RunnerClass: s.RunnerClass})
	}
	return all
}
