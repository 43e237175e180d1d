// Package layout says what a Linux sandbox's two root file systems hold, and what a process in them may do: the same
// at both levels, so that a job cannot tell them apart by anything but its kernel.
//
// It owns the list of mounts, the files that name the sandbox, the mount points in the image and in the helper root,
// the capabilities, the masked paths and the sysctls. It mounts nothing: isolation/oci hands its lists to an OCI
// runtime, isolation/agent does the same work inside a guest. It never follows a link that an image planted.
package layout
