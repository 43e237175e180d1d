package gitlabtest

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"path"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
)

// The stages whose names the Caller needs; the others appear in the order of run.go only.
const (
	stageBuild   = "build_script"
	stageRelease = "step_release"
	stageAfter   = "after_script"
)

// script returns the script of a stage; empty means that the stage is skipped.
func (b *build) script(stage string) string {
	s := &bashScript{tmpDir: b.tmpDir()}
	written := true
	switch stage {
	case "prepare_script":
		b.writePrepare(s)
	case "get_sources":
		b.writeGetSources(s)
	case "clear_worktree":
		b.writeClearWorktree(s)
	case "restore_cache":
		written = b.writeRestoreCache(s)
	case "download_artifacts":
		written = b.writeDownloadArtifacts(s)
	case stageBuild:
		b.writeUser(s, b.Script)
	case stageRelease:
		written = b.writeUser(s, b.Release)
	case stageAfter:
		written = b.writeAfter(s)
	case "archive_cache", "archive_cache_on_failure":
		written = b.writeArchiveCache(s, stage == "archive_cache")
	case "upload_artifacts_on_success", "upload_artifacts_on_failure":
		written = b.writeUploadArtifacts(s, stage == "upload_artifacts_on_success")
	case "cleanup_file_variables":
		b.writeCleanup(s)
	default:
		written = false
	}
	if !written {
		return ""
	}
	return s.finish()
}

func (b *build) writePrepare(s *bashScript) {
	if b.hostname != "" {
		s.line("echo %s", strconv.Quote("Running on $(hostname) via "+b.hostname+"..."))
	} else {
		s.line("echo %s", strconv.Quote("Running on $(hostname)..."))
	}
	s.removeFile(s.tmpFile("gitlab_runner_env"))
	s.removeFile(s.tmpFile("masking.db"))
}

// writeExports exports all variables; filesOnlyNamed leaves the file variables' files as they are.
func (b *build) writeExports(s *bashScript, filesOnlyNamed bool) {
	for _, v := range b.vars() {
		if filesOnlyNamed && v.File {
			v = Variable{Key: v.Key, Value: s.tmpFile(v.Key)}
		}
		s.variable(v)
	}
	env := s.tmpFile("gitlab_runner_env")
	s.variable(Variable{Key: "GITLAB_ENV", Value: env})
	s.source(env)
}

func (b *build) writeGetSources(s *bashScript) {
	b.writeExports(s, false)
	s.variable(Variable{Key: "GIT_TERMINAL_PROMPT", Value: "0"})
	s.variable(Variable{Key: "GCM_INTERACTIVE", Value: "Never"})
	strategy := b.vars().get("GIT_STRATEGY")
	if strategy == "none" {
		s.variable(Variable{Key: "GIT_LFS_SKIP_SMUDGE", Value: "1"})
		s.notice("Skipping Git repository setup")
		s.command("mkdir", "-p", b.projectDir())
		s.notice("Skipping Git checkout")
		s.notice("Skipping Git submodules setup")
	} else {
		s.commands(b.PreGetSources)
		s.variable(Variable{Key: "GIT_LFS_SKIP_SMUDGE", Value: "1"})
		b.writeGitCleanup(s)
		b.writeGitConfig(s)
		b.writeFetch(s, strategy == "clone")
		b.writeCheckout(s)
		s.notice("Skipping Git submodules setup")
		s.commands(b.PostGetSources)
	}
	b.writeOwnership(s, b.rootDir)
	b.writeForgetCredentials(s)
}

func (b *build) writeGitCleanup(s *bashScript) {
	git, template := path.Join(b.projectDir(), ".git"), path.Join(b.tmpDir(), "git-template")
	for _, name := range []string{"index.lock", "shallow.lock", "HEAD.lock", "hooks/post-checkout", "config.lock"} {
		s.removeFile(path.Join(git, name))
	}
	s.removeFilesBelow(path.Join(git, "refs"), "*.lock")
	s.removeFile(path.Join(template, "config"))
	s.removeDir(path.Join(template, "hooks"))
	s.removeFile(path.Join(git, "config"))
	s.removeDir(path.Join(git, "hooks"))
}

func (b *build) writeGitConfig(s *bashScript) {
	template := s.tmpFile("git-template")
	config, external := path.Join(template, "config"), s.tmpFile(".gitlab-runner.ext.conf")
	s.command("mkdir", "-p", template)
	for _, setting := range [][2]string{
		{"init.defaultBranch", "none"},
		{"fetch.recurseSubmodules", "false"},
		{"credential.interactive", "never"},
		{"gc.autoDetach", "false"},
	} {
		s.command("git", "config", "-f", config, setting[0], setting[1])
	}
	s.removeFile(external)
	s.expanding("git", "config", "-f", external, "http.extraHeader", "X-Gitaly-Correlation-ID: "+b.correlationID)
	s.notice("Gitaly correlation ID: %s", b.correlationID)
	s.expanding("git", "config", "-f", external, "transfer.bundleURI", "true")
	withToken := func(url string) string {
		return strings.Replace(url, "://", "://gitlab-ci-token:"+b.Token+"@", 1)
	}
	for _, url := range []string{b.RepositoryURL, b.ServerURL} {
		s.line(`git "config" "--file" "%s" "--replace-all" "url.%s.insteadOf" "%s" "^%s$"`,
			external, withToken(url), url, regexp.QuoteMeta(url))
	}
	s.line(`git "config" "--file" "%s" "--replace-all" "include.path" "%s" "\.gitlab-runner\.ext\.conf$"`, config, external)
	s.line("export GLR_EXT_GIT_CONFIG_PATH=%q", external)
}

func (b *build) writeFetch(s *bashScript, clone bool) {
	if clone {
		s.removeDir(b.projectDir())
	}
	s.notice("Fetching changes with git depth set to %d...", depth)
	s.command("git", "init", b.projectDir(), "--template", s.tmpFile("git-template"))
	s.command("cd", b.projectDir())
	s.ifQuiet("git", "remote", "add", "origin", b.RepositoryURL)
	s.notice("Created fresh repository.")
	s.otherwise()
	s.command("git", "remote", "set-url", "origin", b.RepositoryURL)
	s.line(`git "config" "--file" ".git/config" "--replace-all" "include.path" "$GLR_EXT_GIT_CONFIG_PATH" "\.gitlab-runner\.ext\.conf$"`)
	s.end()
	args := []string{"-c", "http.userAgent=gitlab-runner " + RunnerVersion + " linux/amd64", "fetch", "origin", "--no-recurse-submodules"}
	args = append(args, b.refspecs()...)
	s.command("git", append(args, "--depth", strconv.Itoa(depth), "--prune", "--quiet")...)
}

func (b *build) writeCheckout(s *bashScript) {
	s.notice("Checking out %s as detached HEAD (ref is %s)...", b.SHA[:min(8, len(b.SHA))], b.Ref)
	s.command("git", "-c", "submodule.recurse=false", "checkout", "-f", "-q", b.SHA)
	s.command("git", "clean", "-ffdx")
	s.ifQuiet("git", "lfs", "version")
	s.command("git", "lfs", "pull")
	s.line("echo")
	s.end()
}

func (b *build) writeClearWorktree(s *bashScript) {
	s.notice("Deleting tracked and untracked files...")
	s.ifDirectory(b.projectDir())
	s.command("cd", b.projectDir())
	s.command("git", "rm", "-rf", "--ignore-unmatch", "--quiet", ".")
	s.command("git", "clean", "-ffdx", "-q")
	s.end()
}

// writeOwnership writes what only Kubernetes uses.
func (b *build) writeOwnership(s *bashScript, dirs ...string) {
	owner := b.rootDir + "/.gitlab-build-uid-gid"
	s.open("if [ -e %q ]; then", owner)
	for _, dir := range dirs {
		s.ifDirectory(dir)
		s.line(`chown -R "$(stat -c '%%u:%%g' '%s')" '%s'`, owner, dir)
		s.end()
	}
	s.end()
}

func (b *build) writeForgetCredentials(s *bashScript) {
	server := b.server()
	server.Path = ""
	s.line("echo %s | git credential reject || true", escape("url="+server.String()+"\nusername=gitlab-ci-token"))
}

// writeGuarded writes commands that need the program gitlab-runner.
func writeGuarded(s *bashScript, action string, commands func()) {
	s.ifQuiet("gitlab-runner", "--version")
	commands()
	s.otherwise()
	s.warning("Missing gitlab-runner. %s is disabled.", action)
	s.end()
}

// cacheFile is a cache's archive, seen from the project's directory.
func (b *build) cacheFile(key string) string {
	file := path.Join(b.cacheDir, b.ProjectPath, key, "cache.zip")
	relative, err := filepath.Rel(b.projectDir(), file)
	if err != nil {
		return file
	}
	return relative
}

func (b *build) writeRestoreCache(s *bashScript) bool {
	b.writeExports(s, false)
	s.command("cd", b.projectDir())
	written := false
	for _, c := range b.Cache {
		written = true
		if c.Policy == "push" {
			s.notice("Not downloading cache %s due to policy", c.Key)
			continue
		}
		writeGuarded(s, "Extracting cache", func() {
			s.notice("Checking cache for %s...", c.Key)
			s.ifCommand("gitlab-runner", "cache-extractor", "--file", b.cacheFile(c.Key), "--timeout", "10")
			s.notice("Successfully extracted cache")
			s.otherwise()
			s.warning("Failed to extract cache")
			s.end()
		})
	}
	b.writeOwnership(s, path.Join(b.cacheDir, b.ProjectPath), b.rootDir)
	return written
}

func (b *build) writeArchiveCache(s *bashScript, success bool) bool {
	b.writeExports(s, false)
	s.command("cd", b.projectDir())
	written := false
	for _, c := range b.Cache {
		if !applies(or(c.When, "on_success"), success) {
			continue
		}
		written = true
		if c.Policy == "pull" {
			s.notice("Not uploading cache %s due to policy", c.Key)
			continue
		}
		writeGuarded(s, "Creating cache", func() { b.writeArchive(s, c) })
	}
	return written
}

func (b *build) writeArchive(s *bashScript, c Cache) {
	s.notice("Creating cache %s...", c.Key)
	env := s.tmpFile("gitlab_runner_cache_env")
	metadata := strings.ReplaceAll(fmt.Sprintf(`{"cachekey":%q}`, c.Key), `"`, `\"`)
	s.line("cat << EOF > %s\nCACHE_METADATA=\"%s\"\nEOF\n", env, metadata)
	hashed := sha256.Sum256([]byte(c.Key))
	args := []string{
		"cache-archiver", "--file", b.cacheFile(c.Key),
		"--alternate-file", b.cacheFile(hex.EncodeToString(hashed[:])), "--timeout", "10",
	}
	for _, p := range c.Paths {
		args = append(args, "--path", p)
	}
	s.ifCommand("gitlab-runner", append(args, "--env-file", env)...)
	s.notice("Created cache")
	s.otherwise()
	s.warning("Failed to create cache")
	s.end()
	s.removeFile(env)
}

func (b *build) writeDownloadArtifacts(s *bashScript) bool {
	b.writeExports(s, false)
	s.command("cd", b.projectDir())
	var wanted []Dependency
	for _, d := range b.Dependencies {
		if d.Filename != "" {
			wanted = append(wanted, d)
		}
	}
	writeGuarded(s, "Artifacts downloading", func() {
		for _, d := range wanted {
			s.notice("Downloading artifacts for %s (%d)...", d.Name, d.ID)
			s.command("gitlab-runner", "artifacts-downloader", "--url", b.ServerURL, "--token", d.Token, "--id", fmt.Sprint(d.ID))
		}
	})
	b.writeOwnership(s, path.Join(b.cacheDir, b.ProjectPath), b.rootDir)
	return len(wanted) > 0
}

func (b *build) writeUser(s *bashScript, script []string) bool {
	b.writeExports(s, false)
	s.command("cd", b.projectDir())
	s.commands(script)
	return script != nil
}

func (b *build) writeAfter(s *bashScript) bool {
	b.writeExports(s, false)
	s.command("cd", b.projectDir())
	s.notice("Running after script...")
	s.commands(b.AfterScript)
	return len(b.AfterScript) > 0
}

func (b *build) writeUploadArtifacts(s *bashScript, success bool) bool {
	b.writeExports(s, false)
	s.command("cd", b.projectDir())
	written := false
	for _, a := range b.Artifacts {
		if len(a.Paths) == 0 || !applies(or(a.When, "on_success"), success) {
			continue
		}
		written = true
		args := []string{
			"artifacts-uploader", "--url", b.ServerURL, "--token", b.Token, "--id", fmt.Sprint(b.ID),
			"--timeout", "1h0m0s", "--response-header-timeout", "10m0s",
		}
		for _, p := range a.Paths {
			args = append(args, "--path", p)
		}
		if a.Name != "" {
			args = append(args, "--name", a.Name)
		}
		args = append(args, "--artifact-format", or(a.Format, "zip"), "--artifact-type", or(a.Type, "archive"))
		writeGuarded(s, "Uploading artifacts", func() {
			s.notice("Uploading artifacts...")
			s.command("gitlab-runner", args...)
		})
	}
	return written
}

// applies reports whether something with this when: happens.
func applies(when string, success bool) bool {
	return when == "always" || (when == "on_success") == success
}

func (b *build) writeCleanup(s *bashScript) {
	b.writeExports(s, true)
	b.writeForgetCredentials(s)
	for _, name := range []string{"gitlab_runner_env", "masking.db", ".gitlab-runner.ext.conf", ".glr.gconf"} {
		s.removeFile(s.tmpFile(name))
	}
	for _, v := range b.vars() {
		if v.File {
			s.removeFile(s.tmpFile(v.Key))
		}
	}
	b.writeGitCleanup(s)
	s.removeFile(b.rootDir + "/.gitlab-build-uid-gid")
}
