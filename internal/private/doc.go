// Package private makes and finds what nobody but root, or the system and administrators on Windows, may touch:
// directories with keys, job scripts and images, and the service's pipes. It is a leaf; the owner of such a directory
// calls it before putting anything in.
package private
