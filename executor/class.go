package executor

import (
	"slices"

	"github.com/airlock-ci/airlock/api"
	"github.com/airlock-ci/airlock/api/control"
	"github.com/airlock-ci/airlock/internal/fault"
)

// settleClass makes the class of a job the one that its caller's socket is for, root's calls included. What the caller
// says must not contradict it, nor be a class that has a socket of its own: one that is served, or one that the
// configuration binds since, whose socket comes with the next start of the service. Until then nobody has that class.
func (s *server) settleClass(e *control.Entrance, prepare *api.Prepare) error {
	switch said := prepare.RunnerClass; {
	case e.GetRunnerClass() != "" && said != "" && said != e.GetRunnerClass():
		return fault.WithRemedy(fault.Adminf("the socket %s is that of runner class %q, and the driver was called with --runner-class %q",
			e.GetPath(), e.GetRunnerClass(), said), "remove --runner-class from prepare_args in the runner's config.toml, or name the right --socket in all four *_args")
	case e.GetRunnerClass() != "":
		prepare.RunnerClass = e.GetRunnerClass()
	case said != "" && s.isBound(said):
		return fault.WithRemedy(fault.Adminf("runner class %q has a socket of its own, and %s is not it", said, e.GetPath()),
			"name that socket with --socket in all four *_args in the runner's config.toml; [[sockets]] in Airlock's configuration says which it is, and who may use it")
	}
	return nil
}

func (s *server) isBound(class string) bool {
	served := slices.ContainsFunc(s.Entrances(), func(e *control.Entrance) bool { return e.GetRunnerClass() == class })
	return served || slices.Contains(s.backend.BoundClasses(), class)
}
