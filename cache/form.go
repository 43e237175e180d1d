package cache

// Form is what a base or a scratch is made as.
type Form int

const (
	// FormLayers are host directories: unpacked layers, and a directory to write to. The default.
	FormLayers Form = iota
	// FormDisk are disk images, for guests with a kernel of their own.
	FormDisk
)

// DiskSize is the size of every disk image, in bytes: 64 GiB. A virtual machine that is restored from a template
// keeps the sizes that its devices had there, so one size has to fit all. The file is sparse: it takes
// space on the host for what is in it. It bounds an image, with its metadata, and a scratch.
const DiskSize = 64 << 30
