package config

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"slices"
	"time"
	"unicode/utf8"

	"github.com/airlock-ci/airlock/internal/fault"
	"github.com/airlock-ci/airlock/internal/private"
	"github.com/airlock-ci/airlock/isolation"
)

// maxSize is the largest file that is read, in bytes: a configuration has some hundred lines.
const maxSize = 1 << 20

// Load reads the configuration from path. A missing file is an error unless path is DefaultPath: then the
// defaults hold. Every error is the administrator's (fault.Admin); for what is wrong in the file it wraps an
// *Error.
func Load(path string) (*Config, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) && path == DefaultPath {
		return Default(), nil
	}
	if err != nil {
		return nil, fault.WithRemedy(fault.Adminf("reading the configuration: %w", err),
			"make the file readable for the service's user, or name another one with --config")
	}
	if err := private.CheckOwner(path); err != nil {
		return nil, fault.Adminf("the configuration is not believed: %w", err)
	}
	return Parse(data, path)
}

// Absent reports whether path is DefaultPath and there is no such file: what Load returns are the defaults.
func Absent(path string) bool {
	_, err := os.Stat(path)
	return path == DefaultPath && errors.Is(err, fs.ErrNotExist)
}

// ReadText returns a TOML file's text without the mark that editors of Windows put before UTF-8. What is no UTF-8 at all, as
// Windows' Notepad and older PowerShells may write it, is one error of the administrator's (fault.Admin); path is for it.
func ReadText(data []byte, path string) ([]byte, error) {
	text, at, wrong := decode(data)
	if wrong != "" {
		all := &Error{Path: path}
		all.add(at, "", wrong, "save it as UTF-8")
		return nil, fault.Adminf("%w", all)
	}
	return text, nil
}

// decode returns the text, or what is wrong with it and where.
func decode(data []byte) (text []byte, at position, wrong string) {
	text = bytes.TrimPrefix(data, []byte("\xef\xbb\xbf"))
	if len(data) > 1 && (string(data[:2]) == "\xff\xfe" || string(data[:2]) == "\xfe\xff" || (data[0] == 0) != (data[1] == 0)) {
		return nil, position{1, 1}, "the file is UTF-16"
	}
	for i := 0; i < len(text); {
		r, size := utf8.DecodeRune(text[i:])
		if r == utf8.RuneError && size == 1 {
			return nil, position{bytes.Count(text[:i], []byte("\n")) + 1, i - bytes.LastIndexByte(text[:i], '\n')}, "the file is not UTF-8"
		}
		i += size
	}
	return text, position{}, ""
}

// Parse reads a configuration from data; path is for messages only. Every error is the administrator's and
// wraps an *Error with all that is wrong.
func Parse(data []byte, path string) (*Config, error) {
	if len(data) > maxSize {
		return nil, fault.Adminf("%s is larger than %d bytes, too large for a configuration; name the right file with --config", path, maxSize)
	}
	data, err := ReadText(data, path)
	if err != nil {
		return nil, err
	}
	all := &Error{Path: path}
	doc := readDocument(data, all)
	c := Default()
	c.Cache.ImageSizeLimit, c.Cache.ImageInodeLimit = automatic, automatic // of limits that are not read yet
	given := apply(c, doc.entries, all)
	settle(c, given, all)
	settleSockets(c, doc, all)
	settleImageLimits(c, given, all)
	settlePolicy(c, doc, given, all)
	if len(all.Problems) > 0 {
		settleForeign(all)
		slices.SortStableFunc(all.Problems, func(a, b Problem) int { return a.position().compare(b.position()) })
		return nil, fault.Adminf("%w", all)
	}
	return c, nil
}

// Default returns the configuration of an empty file. It suits hosts of 2 to 64 cores; nothing in it weakens
// a job's isolation.
func Default() *Config {
	return &Config{
		Isolation:           isolation.HypervisorLevel,
		PullPolicies:        []string{"if-not-present"},
		AllowedPullPolicies: []string{"if-not-present"},
		Limits:              isolation.Limits{Memory: 4 << 30, PIDs: 4096, Scratch: 20 << 30},
		NetworkMode:         "nat",
		Network:             Network{Bridge: "airlock0", Subnet: "172.29.0.0/16", MaxConnections: 4096},
		Cache:               defaultCache(),
		Hypervisor:          Hypervisor{QEMU: "qemu-system-x86_64", Kernel: "auto", KernelDir: "/", Templates: true, Pool: 1},
		StateDir:            defaultStateDir,
		RunDir:              defaultRunDir,
		Group:               defaultGroup(),
		CgroupParent:        "airlock",
		GracefulKillTimeout: 10 * time.Second,
		OrphanTimeout:       time.Minute,
		ReapInterval:        time.Minute,
		LogLevel:            "info",
		LogFormat:           "json",
	}
}

func defaultCache() Cache {
	c := Cache{
		DiskLimit: 50 << 30, InodeLimit: 3_000_000, ImageSizeLimit: automatic, ImageInodeLimit: automatic,
		MinFreeSpace: automatic, MinFreeInodes: automatic,
		Scope: "project", PullTimeout: 30 * time.Minute, Scratch: "loop",
	}
	c.settleImageLimits()
	return c
}

// settleImageLimits fills in the automatic limits of one image: a quarter of what all may take, so that even its disk
// for virtual machines beside its layers leaves room for others.
func (c *Cache) settleImageLimits() {
	quarter := func(dst *int64, all, otherwise int64) {
		switch {
		case *dst != automatic:
		case all > 0:
			*dst = max(1, all/4)
		default:
			*dst = otherwise
		}
	}
	quarter(&c.ImageSizeLimit, c.DiskLimit, 16<<30)
	quarter(&c.ImageInodeLimit, c.InodeLimit, 750_000)
}

// MinFree is what pulls leave free of a file system that has so many bytes and inodes: what the configuration says, else a
// twentieth, at most 2 GiB and 50,000 inodes. One that makes inodes as they are needed says that it has 0.
func (c *Cache) MinFree(bytes, inodes int64) (freeBytes, freeInodes int64) {
	freeBytes, freeInodes = c.MinFreeSpace, c.MinFreeInodes
	if freeBytes == automatic {
		freeBytes = min(bytes/20, 2<<30)
	}
	if freeInodes == automatic {
		freeInodes = min(inodes/20, 50_000)
	}
	if inodes == 0 {
		freeInodes = 0
	}
	return freeBytes, freeInodes
}

// defaultGroup returns the group that GitLab Runner's packages make, if this host has it.
func defaultGroup() string {
	const name = "gitlab-runner"
	if _, err := user.LookupGroup(name); err != nil {
		return ""
	}
	return name
}

// apply hands every entry to its key and returns the entries of known keys, by key.
func apply(c *Config, entries []entry, all *Error) map[string]entry {
	table := allKeys()
	given := map[string]entry{}
	for _, e := range entries {
		i := slices.IndexFunc(table, func(k key) bool { return k.name == e.key })
		if i < 0 {
			message, remedy := unknownKey(e.key, table)
			all.add(e.keyAt, e.key, message, remedy)
			continue
		}
		given[e.key] = e
		table[i].set(c, &reading{entry: e, all: all})
	}
	return given
}

// settle fills in and checks what depends on more than one key.
func settle(c *Config, given map[string]entry, all *Error) {
	allowed, ok := given["allowed_pull_policies"]
	if !ok {
		c.AllowedPullPolicies = slices.Clone(c.PullPolicies)
		return
	}
	for _, policy := range c.PullPolicies {
		if len(c.AllowedPullPolicies) > 0 && !slices.Contains(c.AllowedPullPolicies, policy) {
			all.add(allowed.at, allowed.key, fmt.Sprintf("it does not contain %q, which pull_policy uses", policy),
				"add it here, or set pull_policy to allowed ones")
		}
	}
}

// settleImageLimits fills in and checks the limits of one image: it is a part of all images.
func settleImageLimits(c *Config, given map[string]entry, all *Error) {
	for _, pair := range []struct {
		one, all string
		limit    int64
		whole    int64
	}{
		{"cache.image_size_limit", "disk_limit", c.Cache.ImageSizeLimit, c.Cache.DiskLimit},
		{"cache.image_inode_limit", "inode_limit", c.Cache.ImageInodeLimit, c.Cache.InodeLimit},
	} {
		if e, ok := given[pair.one]; ok && pair.whole > 0 && pair.limit > pair.whole {
			all.add(e.at, e.key, "one image may not take more than all images, which "+pair.all+" bounds",
				"write less than "+pair.all+", or raise that")
		}
	}
	c.Cache.settleImageLimits()
}
