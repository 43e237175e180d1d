package oci

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/airlock-ci/airlock/isolation"
	"github.com/airlock-ci/airlock/isolation/layout"
)

// mountHelper mounts the helper root.
func (r *Runtime) mountHelper(spec isolation.Spec) error {
	s := scratch(spec.ScratchDir)
	if err := layout.MakeDirs(0o755, s.helper(), s.helperEtc(), filepath.Join(s.helperEtc(), "etc")); err != nil {
		return err
	}
	if err := layout.MakeDirs(fs.ModeSticky|0o777, s.helperTmp()); err != nil {
		return err
	}
	for name, content := range layout.NamesFiles(spec) {
		if err := os.WriteFile(filepath.Join(s.helperEtc(), name), []byte(content), 0o644); err != nil {
			return fmt.Errorf("preparing the helper root: %w", err)
		}
	}
	layers := append([]string{s.helperEtc(), r.shellDir}, spec.Helper.Layers...)
	return overlay{lower: append(layers, r.aliasDir)}.mount(s.helper())
}
