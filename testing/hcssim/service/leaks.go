package service

import (
	"fmt"
	"os"
	"slices"
)

// Leaks lists what is left on the machine that a client made and did not remove, one line each: systems, mounted
// scratches and folders of scratches, folders that were imported from, endpoints, handles that a client held when it
// ended. Networks may stay: they are a host's. Templates may stay too, unless their base is to go.
func (s *Service) Leaks() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []string
	there := s.present() // first: it knows their present names
	for _, sys := range s.systems {
		if !sys.template {
			all = append(all, fmt.Sprintf("system %s is %s", sys.id, sys.state))
		}
	}
	for _, found := range s.layers.scratches {
		if found.active || found.prepared {
			all = append(all, "scratch "+found.name+" is mounted")
		}
	}
	for _, found := range there {
		all = append(all, "scratch "+found.name+" is there")
	}
	for path, name := range s.layers.imports {
		if _, err := os.Lstat(path); err == nil {
			all = append(all, "folder "+name+" of an import is there")
		}
	}
	for _, e := range s.networks.endpoints {
		all = append(all, fmt.Sprintf("endpoint %s (%s) is there", e.name, e.id))
	}
	all = append(all, s.left...)
	slices.Sort(all)
	return all
}

// Forgive forgets the handles that clients have left so far: for tests that end clients hard.
func (s *Service) Forgive() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.left = nil
}
