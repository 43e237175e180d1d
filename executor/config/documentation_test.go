package config_test

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/airlock-ci/airlock/executor/config"
)

// TestEveryKeyIsDocumented reads docs/configuration.md: each key has a section of its own, with the default that the
// example has too and with an example that the parser takes.
func TestEveryKeyIsDocumented(t *testing.T) {
	content, err := os.ReadFile("../../docs/configuration.md")
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
