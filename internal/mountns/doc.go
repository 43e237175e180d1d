// Package mountns gives the executor a mount namespace of its own. Every mount that it makes (overlays,
// scratches, helper roots) exists only there, so the kernel itself removes them all when the executor dies,
// whatever killed it. The executor and the tests of runtimes call it; it is a leaf.
package mountns
