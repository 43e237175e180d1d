package images

import (
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/airlock-ci/airlock/testing/gitlabtest"
	"github.com/airlock-ci/airlock/testing/rootfs"
)

// The names that the images carry in their archives.
const (
	HelperName  = "airlock-test/helper:latest"
	GitName     = "airlock-test/git:latest"
	BashName    = "airlock-test/bash:latest"
	BusyboxName = "airlock-test/busybox:latest"
)

// form changes when the same packages make another image.
const form = "2"

// basePackages make a shell comfortable; helperPackages are what the runner's own stages need beside it.
var (
	basePackages   = []string{"bash", "coreutils", "dash", "findutils", "grep", "gzip", "hostname", "sed", "tar"}
	helperPackages = append([]string{"ca-certificates", "git", "git-lfs"}, basePackages...)
)

// Helper returns the path of the helper image. Its gitlab-runner is the one of gitlabtest.BuildRunner.
func Helper(ctx context.Context) (string, error) {
	runner, err := gitlabtest.BuildRunner(ctx)
	if err != nil {
		return "", err
	}
	return fromPackages(ctx, HelperName, helperPackages, map[string]string{
		runner:                               "usr/bin/gitlab-runner",
		"/etc/ssl/certs/ca-certificates.crt": "etc/ssl/certs/ca-certificates.crt",
	})
}

// Git returns the path of a helper image without gitlab-runner: jobs are cloned in it, but have neither caches nor
// artifacts. It is made in a moment.
func Git(ctx context.Context) (string, error) {
	return fromPackages(ctx, GitName, helperPackages, map[string]string{
		"/etc/ssl/certs/ca-certificates.crt": "etc/ssl/certs/ca-certificates.crt",
	})
}

// Bash returns the path of a job image with bash and the GNU tools, but neither git nor gitlab-runner.
func Bash(ctx context.Context) (string, error) {
	return fromPackages(ctx, BashName, basePackages, nil)
}

// Busybox returns the path of the job image of package rootfs: busybox and nothing else.
func Busybox(ctx context.Context) (string, error) {
	image, err := rootfs.Image()
	if err != nil {
		return "", err
	}
	digest, err := image.Digest()
	if err != nil {
		return "", err
	}
	return gitlabtest.Cached(ctx, "busybox-"+digest.Hex[:12]+".tar", func(_ context.Context, path string) error {
		return write(path, BusyboxName, image)
	})
}

// fromPackages returns the path of an image of installed packages and of further files, "from" to "to".
func fromPackages(ctx context.Context, image string, packages []string, files map[string]string) (string, error) {
	versions, err := exec.CommandContext(ctx, "dpkg-query", append([]string{"-W", "-f", "${Package} ${Version} ${db:Status-Status}\n"}, packages...)...).Output()
	if err != nil || strings.Contains(string(versions), "not-installed") {
		return "", fmt.Errorf("the image %s is made of installed Debian packages: apt-get install %s", image, strings.Join(packages, " "))
	}
	key := sha256.New()
	_, _ = fmt.Fprintln(key, form, string(versions), files)
	base, _, _ := strings.Cut(filepath.Base(image), ":")
	file := fmt.Sprintf("%s-%x.tar", base, key.Sum(nil)[:6])
	return gitlabtest.Cached(ctx, file, func(ctx context.Context, path string) error {
		root, err := os.MkdirTemp("", "airlock-image-")
		if err != nil {
			return err
		}
		defer func() { _ = os.RemoveAll(root) }()
		if err := assemble(ctx, root, packages, files); err != nil {
			return err
		}
		built, err := rootfs.ImageOf(root, v1.Config{Env: []string{"PATH=" + rootfs.Path}, Cmd: []string{"bash"}})
		if err != nil {
			return err
		}
		return write(path, image, built)
	})
}

func write(path, image string, built v1.Image) error {
	tag, err := name.NewTag(image)
	if err != nil {
		return err
	}
	return tarball.WriteToFile(path, tag, built)
}
