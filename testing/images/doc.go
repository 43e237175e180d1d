// Package images makes the images that tests, benchmarks and the demonstration run jobs with, as
// docker-archive files: a helper image (git, git-lfs, CA certificates, gitlab-runner), a job image with bash
// and the usual tools, and one with busybox only.
//
// There is no registry and no download behind it: the files are those of this machine's own Debian packages,
// with the shared libraries that they need. An image is made once per machine and state of its packages, and
// kept by gitlabtest.Cached. Only tests import it.
package images
