package image

import (
	"runtime"

	"github.com/Microsoft/hcsshim/osversion"
	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// HostPlatform is the platform of this host. It also runs images of older builds.
func HostPlatform() v1.Platform {
	return v1.Platform{OS: "windows", Architecture: runtime.GOARCH, Variant: processorVariant(), OSVersion: osversion.Get().String()}
}
