// Package private makes directories that nobody but root, or the system and administrators on Windows, may enter: what
// holds keys, job scripts and images. It is a leaf; whoever owns such a directory calls it before putting anything in.
package private
