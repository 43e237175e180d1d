package cache

import (
	"runtime"

	"github.com/Microsoft/hcsshim/osversion"
	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// hostPlatform is the platform of this host. It also runs images of older builds.
func hostPlatform() v1.Platform {
	return v1.Platform{OS: "windows", Architecture: runtime.GOARCH, Variant: processorVariant(), OSVersion: osversion.Get().String()}
}
