package hcs

import (
	"strings"

	"github.com/airlock-ci/airlock/internal/fault"
	"github.com/airlock-ci/airlock/isolation"
)

// Paths in every Windows sandbox.
const (
	// buildsDir and cacheDir are isolation.BuildsDir and CacheDir, also when the tests run elsewhere.
	buildsDir = `C:\builds`
	cacheDir  = `C:\cache`
	// airlockDir holds the two directories of the host that every sandbox sees, both read-only there.
	airlockDir = `C:\airlock`
	scriptDir  = airlockDir + `\scripts`
	helperDir  = airlockDir + `\helper`
)

// helperPath is what stands first in the PATH of the runner's own stages: the directory itself, with gitlab-runner,
// and where MinGit keeps git and its tools.
const helperPath = helperDir + `;` + helperDir + `\git\cmd;` + helperDir + `\git\mingw64\bin;` + helperDir + `\git\usr\bin`

// The users of every Windows image.
const (
	administrator = "ContainerAdministrator"
	plainUser     = "ContainerUser"
)

// shell is a program that runs scripts.
type shell struct {
	extension string
	// command is the command line before the script's path, which needs no quotes.
	command string
}

var shells = map[string]shell{
	"powershell": {".ps1", "powershell.exe -NoLogo -NoProfile -NonInteractive -ExecutionPolicy Bypass -File "},
	"pwsh":       {".ps1", "pwsh.exe -NoLogo -NoProfile -NonInteractive -ExecutionPolicy Bypass -File "},
	"cmd":        {".cmd", "cmd.exe /d /c "},
}

// defaultShell is in every image but the smallest.
const defaultShell = "powershell"

func findShell(name string) (shell, error) {
	if name == "" {
		name = defaultShell
	}
	s, ok := shells[name]
	if !ok {
		return shell{}, fault.WithRemedy(fault.Adminf("there is no shell %q", name), "use powershell, pwsh or cmd")
	}
	return s, nil
}

// commandLine joins arguments so that programs which parse their command line as Microsoft's C library does get them
// back. cmd.exe parses its own way: what stands behind its /c or /k is handed on as it is.
func commandLine(args []string) string {
	if len(args) == 0 {
		return "cmd.exe"
	}
	program := strings.ToLower(args[0][strings.LastIndexAny(args[0], `\/`)+1:])
	isCmd := program == "cmd" || program == "cmd.exe"
	var b strings.Builder
	for i, arg := range args {
		if i > 0 {
			b.WriteByte(' ')
		}
		if isCmd && i > 0 {
			b.WriteString(arg)
			continue
		}
		b.WriteString(quote(arg))
	}
	return b.String()
}

// quote quotes one argument: backslashes count double before a quote, and only there.
func quote(arg string) string {
	if arg != "" && !strings.ContainsAny(arg, " \t\n\v\"") {
		return arg
	}
	var b strings.Builder
	b.WriteByte('"')
	slashes := 0
	for _, c := range []byte(arg) {
		switch c {
		case '\\':
			slashes++
		case '"':
			b.WriteString(strings.Repeat(`\`, slashes+1))
			slashes = 0
		default:
			slashes = 0
		}
		b.WriteByte(c)
	}
	b.WriteString(strings.Repeat(`\`, slashes))
	b.WriteByte('"')
	return b.String()
}

// environment merges "KEY=value" lists; later ones win, and names are the same in either case, as Windows has it.
func environment(lists ...[]string) map[string]string {
	merged := map[string]string{}
	spelling := map[string]string{}
	for _, list := range lists {
		for _, pair := range list {
			name, value, ok := strings.Cut(pair, "=")
			if !ok || name == "" {
				continue
			}
			if before, known := spelling[strings.ToUpper(name)]; known {
				delete(merged, before)
			}
			spelling[strings.ToUpper(name)] = name
			merged[name] = value
		}
	}
	return merged
}

// processOf translates what to start, without the directory. path is the sandbox's own PATH.
func (s *sandbox) processOf(spec isolation.ProcessSpec, script string) processDocument {
	env := [][]string{s.image.Env, spec.Env}
	if spec.Helper && s.helper {
		// The PATH is the sandbox's own as it was found at its start, behind the helper's directories.
		env = append([][]string{s.image.Env, s.helperEnv, {"PATH=" + helperPath + ";" + s.path}}, spec.Env)
	}
	doc := processDocument{
		CommandLine: script, Environment: environment(env...), User: s.image.User,
		Console: spec.TTY, Rows: spec.Rows, Columns: spec.Columns,
	}
	if script == "" {
		doc.CommandLine = commandLine(spec.Args)
	}
	if spec.User != "" {
		doc.User = spec.User
	}
	return doc
}
