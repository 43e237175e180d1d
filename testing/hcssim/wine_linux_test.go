package hcssim_test

import (
	"testing"

	"github.com/airlock-ci/airlock/testing/hcssim"
)

func TestLife(t *testing.T) {
	s := hcssim.Start(t, hcssim.Options{})
	s.Test(t, "./testing/hcssim/client", "-test.run=TestHost|TestImport|TestScratchLife|TestArgon|TestXenon")
}
