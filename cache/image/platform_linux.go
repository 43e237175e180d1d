package image

import (
	"runtime"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// HostPlatform is the platform of this host, its processor's variant included.
func HostPlatform() v1.Platform {
	return v1.Platform{OS: "linux", Architecture: runtime.GOARCH, Variant: processorVariant()}
}
