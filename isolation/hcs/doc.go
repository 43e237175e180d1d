// Package hcs is both levels on Windows: a sandbox is a Windows Server Container (process level) or a Hyper-V
// container (hypervisor level) of the Host Compute Service, made of the image's layers and a scratch layer of its own.
//
// It owns the compute systems whose owner is Options.Owner, the scratch layers below a job's scratch directory, and
// the trash of scratch layers; the image's layers, the scratch directory and the network endpoints belong to the
// caller. It never asks a container to shut down (which hangs), never mounts the scratch of a Hyper-V container on
// the host, never waits without a bound for the compute service, and never lets what is stuck there hold up another
// job. Package jobs is its caller, through the interfaces of package isolation.
//
// # How it reads
//
// The story (create, retry, start, stage, destroy, quarantine, sweep) is plain Go over the small interface compute,
// and tested on any system with a fake one. Everything that calls the service stands in compute_windows.go.
//
// # What Windows does not offer
//
//   - No agent and no second root: stages are started by the compute service, in the image. A helper directory of
//     the host is mapped read-only and stands first in the PATH of the runner's own stages.
//   - No signals: any signal ends a stage's processes at once.
//   - No limit of processes, and no word on whether the memory limit ended something.
//   - The service lists processes without their parents. So what a stage leaves behind is found by its age: see
//     killTree.
package hcs
