package isolation

// Needs says in which form a runtime takes what its caller gives to it in a Spec. The caller makes the forms that the chosen
// runtime asks for: a level alone tells none of them. The zero value of each form is none at all, so that a runtime that
// forgets to say what it needs gets an error, and not the form of another.
type Needs struct {
	// Root is the form of Spec.Image and Spec.Helper.
	Root RootForm
	// Scratch is the form of the job's writable layer.
	Scratch ScratchForm
	// Network is the form of Spec.Network.
	Network NetworkForm
	// HostDirectories says that directories of the host can be handed to a sandbox: Spec.CacheDir.
	HostDirectories bool
}

// RootForm is what a base is handed over as.
type RootForm int

const (
	// RootLayers are unpacked layers, Root.Layers.
	RootLayers RootForm = iota + 1
	// RootDisk is one disk image with the content of all layers, Root.Disk.
	RootDisk
)

// ScratchForm is what a scratch is handed over as.
type ScratchForm int

const (
	// ScratchDirectory is a directory of bounded size, Spec.ScratchDir.
	ScratchDirectory ScratchForm = iota + 1
	// ScratchDisk is a disk image with an empty file system, Spec.ScratchDisk.
	ScratchDisk
)

// NetworkForm is what the end of a sandbox's network is.
type NetworkForm int

const (
	// NetworkNamespace is a network namespace with the interface in it, Network.NetNS.
	NetworkNamespace NetworkForm = iota + 1
	// NetworkTap is a tap device for a guest's interface, Network.Tap and Network.TapFile.
	NetworkTap
	// NetworkEndpoint is an endpoint of the Host Networking Service, Network.Endpoints.
	NetworkEndpoint
)

// String returns the form's name, for messages.
func (f NetworkForm) String() string {
	switch f {
	case NetworkNamespace:
		return "namespace"
	case NetworkTap:
		return "tap"
	case NetworkEndpoint:
		return "endpoint"
	default:
		return "no form"
	}
}
