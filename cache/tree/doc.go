// Package tree is a directory tree that is never left, in overlayfs's format.
//
// It walks by descriptors, one component at a time: the kernel is never asked to follow a symbolic link. Where links lead
// is found out by reading them, as if the tree were the root file system. It owns the marks in a tree: whiteouts, opaque
// directories, and directories that a layer only names as parts of paths. It merges the listings of several layers, and
// measures what a tree takes. Layers are unpacked and fitted with it, and disks read by it. Linux only.
package tree
