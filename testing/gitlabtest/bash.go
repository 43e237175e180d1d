package gitlabtest

import (
	"fmt"
	"path"
	"strings"
)

// bashScript writes a stage's script in the form of runner 19.4's bash writer: its quoting, its indentation,
// its commands.
type bashScript struct {
	lines  strings.Builder
	indent int
	tmpDir string
}

const (
	green  = "\x1b[32;1m"
	yellow = "\x1b[0;33m"
	reset  = "\x1b[0;m"
)

func (s *bashScript) line(format string, args ...any) {
	s.lines.WriteString(strings.Repeat("  ", s.indent) + fmt.Sprintf(format, args...) + "\n")
}

// command writes a command whose arguments are taken literally.
func (s *bashScript) command(name string, args ...string) {
	s.line("%s", commandLine(name, args))
}

// expanding writes a command whose arguments stand in double quotes, so that the shell expands variables.
func (s *bashScript) expanding(name string, args ...string) {
	words := []string{name}
	for _, arg := range args {
		words = append(words, fmt.Sprintf("%q", arg))
	}
	s.line("%s", strings.Join(words, " "))
}

func (s *bashScript) notice(format string, args ...any) {
	s.line("echo %s", escape(green+fmt.Sprintf(format, args...)+reset))
}

func (s *bashScript) warning(format string, args ...any) {
	s.line("echo %s", escape(yellow+fmt.Sprintf(format, args...)+reset))
}

func (s *bashScript) tmpFile(name string) string { return path.Join(s.tmpDir, name) }

func (s *bashScript) open(format string, args ...any) {
	s.line(format, args...)
	s.indent++
}

func (s *bashScript) otherwise() {
	s.indent--
	s.line("else")
	s.indent++
}

func (s *bashScript) end() {
	s.indent--
	s.line("fi")
}

func (s *bashScript) ifDirectory(dir string) { s.open("if [ -d %q ]; then", dir) }

func (s *bashScript) ifQuiet(name string, args ...string) {
	s.open("if %s >/dev/null 2>&1 ; then", commandLine(name, args))
}

func (s *bashScript) ifCommand(name string, args ...string) {
	s.open("if %s ; then", commandLine(name, args))
}

func (s *bashScript) removeFile(name string) { s.expanding("rm", "-f", name) }

func (s *bashScript) removeDir(dir string) {
	s.ifDirectory(dir)
	s.expanding("chmod", "-R", "u+rwX", dir)
	s.end()
	s.expanding("rm", "-r", "-f", dir)
}

func (s *bashScript) removeFilesBelow(dir, pattern string) {
	s.ifDirectory(dir)
	s.line(`et='+' ; find /dev/null -exec true {} + 2>/dev/null || et=';' ; find %q -name %q -type f -exec rm -f {} "${et}"`, dir, pattern)
	s.end()
}

// variable exports a variable; a file variable is written to a file whose name is exported.
func (s *bashScript) variable(v Variable) {
	if !v.File {
		s.line("export %s=%s", escape(v.Key), escape(v.Value))
		return
	}
	file := s.tmpFile(v.Key)
	s.line("mkdir -p %q", s.tmpDir)
	s.line("printf '%%s' %s > %q", escape(v.Value), file)
	s.line("export %s=%q", escape(v.Key), file)
}

// source reads the variables that earlier stages left in a file.
func (s *bashScript) source(file string) {
	s.line("mkdir -p %q", s.tmpDir)
	s.line("touch %q", file)
	s.line(`while read -r line; do export "$line"; done < %q`, file)
}

// commands writes an author's commands, each announced.
func (s *bashScript) commands(commands []string) {
	for _, command := range commands {
		command = strings.TrimSpace(command)
		first, _, multiline := strings.Cut(command, "\n")
		switch {
		case command == "":
			s.line("echo")
		case multiline:
			s.notice("$ %s # collapsed multi-line command", first)
		default:
			s.notice("$ %s", command)
		}
		s.line("%s", command)
	}
}

// finish returns the whole script.
func (s *bashScript) finish() string {
	return "#!/usr/bin/env bash\n\n" +
		"trap 'exit 1' TERM\n\n" +
		`case "$(set -o)" in *"pipefail"*) set -o pipefail;; esac; set -o errexit` + "\n" +
		"set +o noclobber\n" +
		"(trap 'exit 1' TERM; eval " + escape(s.lines.String()) + ") < /dev/null\n" +
		"exit 0\n"
}

func commandLine(name string, args []string) string {
	words := []string{escape(name)}
	for _, arg := range args {
		words = append(words, escape(arg))
	}
	return strings.Join(words, " ")
}

// escape quotes a string as the runner does: not at all when it is harmless, else as $'...'.
func escape(text string) string {
	if text == "" {
		return "''"
	}
	var out strings.Builder
	quote := false
	for _, c := range []byte(text) {
		switch {
		case strings.IndexByte("\a\b\t\n\v\f\r", c) >= 0:
			out.WriteString([]string{`\a`, `\b`, `\t`, `\n`, `\v`, `\f`, `\r`}[c-'\a'])
			quote = true
		case c == '\'' || c == '\\':
			out.WriteString(`\` + string(c))
			quote = true
		case strings.IndexByte(` !"#$%&()*+:;<=>?[]^`+"`{|}~", c) >= 0:
			out.WriteByte(c)
			quote = true
		case c < ' ' || c > '~':
			fmt.Fprintf(&out, `\x%02x`, c)
			quote = true
		default:
			out.WriteByte(c)
		}
	}
	if quote {
		return "$'" + out.String() + "'"
	}
	return out.String()
}
