package config_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/airlock-ci/airlock/config"
	"github.com/airlock-ci/airlock/isolation"
	"github.com/airlock-ci/airlock/policy"
	"github.com/airlock-ci/airlock/policy/imagepattern"
)

// TestEveryKeyIsDocumented reads docs/configuration.md: each key has a section of its own, with the default that the
// example has too and with an example that the parser takes.
func TestEveryKeyIsDocumented(t *testing.T) {
	content, err := os.ReadFile("../docs/configuration.md")
	require.NoError(t, err)
	sections := map[string]string{}
	for _, section := range regexp.MustCompile(`(?m)^#{2,3} `).Split(string(content), -1) {
		title, text, _ := strings.Cut(section, "\n")
		sections[title] = text
	}
	for _, key := range config.KeyNames() {
		section := sections[key]
		require.NotEmpty(t, section, "docs/configuration.md has no section ### %s", key)

		name := key[strings.LastIndexByte(key, '.')+1:]
		standard := regexp.MustCompile(`(?m)^#` + name + ` = (.+)$`).FindStringSubmatch(config.Example)
		require.NotNil(t, standard, key)
		require.Contains(t, section, "Default: `"+standard[1]+"`", "the default of %s", key)

		example := regexp.MustCompile("(?s)```toml\n(.*?)```").FindStringSubmatch(section)
		require.NotNil(t, example, "%s has no example", key)
		require.Regexp(t, `(?m)^`+name+` = `, example[1])
		parse(t, example[1])
	}
}

// TestSocketsAreDocumented reads docs/configuration.md and the example: each key of [[sockets]] is there.
func TestSocketsAreDocumented(t *testing.T) {
	reference, err := os.ReadFile("../docs/configuration.md")
	require.NoError(t, err)
	section := regexp.MustCompile(`(?s)\n### sockets\n(.*?)(\n##|$)`).FindSubmatch(reference)
	require.NotNil(t, section)
	example := regexp.MustCompile("(?s)```toml\n(.*?)```").FindSubmatch(section[1])
	require.NotNil(t, example)
	commented := regexp.MustCompile(`(?m)^# ?(\[\[sockets\]\]\n(?:# .*\n)+)`).FindStringSubmatch(config.Example)
	require.NotNil(t, commented)
	for _, name := range config.SocketKeyNames() {
		require.Regexp(t, `(?m)^`+name+` = `, string(example[1]))
		require.Contains(t, commented[1], "# "+name+" = ")
		require.Contains(t, string(section[1]), "`"+name+"`")
	}
	if runtime.GOOS != "windows" { // whose sockets are pipes
		require.Len(t, parse(t, string(example[1])).Sockets, 1)
		require.Len(t, parse(t, regexp.MustCompile(`(?m)^# ?`).ReplaceAllString(commented[1], "")).Sockets, 1)
	}
}

// TestThePolicyIsDocumented reads docs/configuration.md, docs/policy.md and the example: each key of a policy and of a
// rule is there, each fact has its row, and every TOML example is taken by the parser.
func TestThePolicyIsDocumented(t *testing.T) {
	reference, err := os.ReadFile("../docs/configuration.md")
	require.NoError(t, err)
	guide, err := os.ReadFile("../docs/policy.md")
	require.NoError(t, err)
	for _, key := range config.PolicyKeyNames() {
		section := regexp.MustCompile(`(?s)\n### ` + regexp.QuoteMeta(key) + `\n(.*?)(\n##|$)`).FindSubmatch(reference)
		require.NotNil(t, section, "docs/configuration.md has no section ### %s", key)
		require.Contains(t, string(section[1]), "Default: ", key)
		name := key[strings.LastIndexByte(key, '.')+1:]
		require.Regexp(t, `(?m)^# `+name+` = `, config.Example)
		parsePolicy(t, string(section[1]))
	}
	for _, name := range config.RuleKeyNames() {
		require.Regexp(t, `\n\| [^|]*`+"`"+name+"`", string(guide), "docs/policy.md has no row for %s", name)
		require.Regexp(t, `(?m)^`+name+` = `, string(reference))
	}
	for _, fact := range policy.FactTable() {
		row := regexp.MustCompile("(?m)^\\| `" + regexp.QuoteMeta(fact.Name) + "` \\| ([^|]*) \\| [^|]* \\| ([^|]*) \\|$").FindStringSubmatch(string(guide))
		require.NotNil(t, row, "docs/policy.md has no row for %s", fact.Name)
		kind := map[policy.Kind]string{policy.Truth: "bool", policy.Number: "int", policy.Text: "string", policy.Texts: "list of strings", policy.Table: "map of strings"}
		require.Equal(t, kind[fact.Kind], row[1], fact.Name)
		raises := "no: " + fact.Trust.Because
		switch {
		case fact.Provenance == policy.Claimed:
			raises = "never"
		case fact.Trust.Raises != policy.NoGrounds:
			raises = "yes"
		}
		require.Equal(t, raises, row[2], "%s: docs/policy.md and the table of facts differ", fact.Name)
		require.Equal(t, trusts(fact), row[2] == "yes", "%s: docs/policy.md and the guard differ", fact.Name)
	}
	rows := regexp.MustCompile("(?m)^\\| `[a-z]+\\.[a-z_]+` \\|").FindAllString(string(guide), -1)
	require.Len(t, rows, len(policy.FactTable()), "docs/policy.md has facts that do not exist")
	parsePolicy(t, string(guide[:bytes.Index(guide, []byte("## Look, explain"))]))
	commented := regexp.MustCompile(`(?s)\n# \[policy\]\n.*`).FindString(config.Example)
	require.NotNil(t, parse(t, regexp.MustCompile(`(?m)^# ?`).ReplaceAllString(commented, "")).Policy)
}

// parsePolicy parses every TOML example of a text as a configuration with a policy.
func parsePolicy(t *testing.T, text string) {
	t.Helper()
	examples := regexp.MustCompile("(?s)```toml\n(.*?)```").FindAllStringSubmatch(text, -1)
	require.NotEmpty(t, examples)
	for _, example := range examples {
		require.NotNil(t, parse(t, example[1]).Policy)
	}
}

// TestPatternsInTheDocumentation reads every document, the example and the ready-made policies: the patterns in them are
// none that would be refused, those in the tables of docs/configuration.md do what the tables say, and what that section
// calls a mistake is refused with the message that it has.
func TestPatternsInTheDocumentation(t *testing.T) {
	lists := regexp.MustCompile(`(?:(?:allowed_images|images|services) = |[^\[]\[)(?:"[^"\n]*"|'[^'\n]*'|[\[\], ])+`)
	quoted := regexp.MustCompile(`"([^"\n]*)"|'([^'\n]*)'`)
	read := func(path string) string {
		content, err := os.ReadFile(path)
		require.NoError(t, err)
		return string(content)
	}
	documents := []string{"config.example.toml", "../README.md"}
	for _, pattern := range []string{"../docs/*.md", "../docs/*/*"} {
		more, err := filepath.Glob(pattern)
		require.NoError(t, err)
		documents = append(documents, more...)
	}
	require.Greater(t, len(documents), 12)
	found := map[string]int{}
	for _, path := range documents {
		for _, list := range lists.FindAllString(read(path), -1) {
			for _, match := range quoted.FindAllStringSubmatch(list, -1) {
				text := match[1] + match[2]
				if !strings.ContainsAny(list, "*!") || strings.ContainsAny(text, "$ ") {
					continue // no list of patterns
				}
				_, err := imagepattern.Parse(text)
				require.NoError(t, err, "%s: %s", path, list)
				found[text]++
			}
		}
	}
	for text, least := range map[string]int{"registry.example.com/**": 4, "!**/*:latest": 3, "debian:*": 2, "postgres:*": 1} {
		require.GreaterOrEqual(t, found[text], least, "%s is not found: %v", text, found)
	}

	_, section, _ := strings.Cut(read("../docs/configuration.md"), "\n### Patterns of images\n")
	section, _, _ = strings.Cut(section, "\n### ")
	uses, mistakes, _ := strings.Cut(section, "\n| pattern | message |\n")
	code := regexp.MustCompile("`([^`]+)`")
	spans := func(cell string) (all []string) {
		for _, match := range code.FindAllStringSubmatch(cell, -1) {
			all = append(all, match[1])
		}
		return all
	}
	rows := regexp.MustCompile("(?m)^\\| (`.*) \\| (.*`) \\| (.*`) \\|$").FindAllStringSubmatch(uses, -1)
	require.Len(t, rows, 9)
	for _, row := range rows {
		pattern := spans(row[1])[0]
		list, forbids := []string{pattern}, strings.HasPrefix(pattern, "!")
		for i, images := range [][]string{spans(row[2]), spans(row[3])} {
			for _, image := range images {
				allowed, _ := imagepattern.Allows(list, image)
				require.Equal(t, (i == 0) != forbids, allowed, "%s: %s", pattern, image)
			}
		}
	}
	rows = regexp.MustCompile("(?m)^\\| (`.*) \\| (.*) \\|$").FindAllStringSubmatch(mistakes, -1)
	require.Len(t, rows, 12)
	message := ""
	for _, row := range rows {
		if row[2] != "the same" {
			message, _, _ = strings.Cut(strings.Trim(row[2], "`"), "...")
		}
		for _, pattern := range spans(row[1]) {
			_, err := config.Parse([]byte("allowed_images = ['"+pattern+"']"), "f")
			if row[2] == "the same" {
				require.ErrorContains(t, err, "where it is no more than * and stays within a path element", pattern)
				continue
			}
			require.ErrorContains(t, err, message, pattern)
		}
	}
}

// trusts reports whether the guard takes a positive statement about a fact for a demand.
func trusts(fact policy.FactDefinition) bool {
	atom := map[policy.Kind]string{policy.Truth: "%s", policy.Number: "%s == 1", policy.Text: "%s == 'x'", policy.Texts: "%s == ['x']", policy.Table: "%s == {'x': 'y'}"}[fact.Kind]
	level := isolation.ProcessLevel
	_, problems := policy.Compile(policy.Source{
		Default: policy.Grant{Level: isolation.HypervisorLevel},
		Rules:   []policy.Rule{{Name: "x", When: fmt.Sprintf(atom, fact.Name), Isolation: &level}},
	})
	return len(problems) == 0
}
