package agent_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/airlock-ci/airlock/internal/fault"
	"github.com/airlock-ci/airlock/isolation"
	"github.com/airlock-ci/airlock/isolation/agent"
)

func TestExitStatus(t *testing.T) {
	s := startSandbox(t, sandboxOptions{})
	for _, c := range []struct {
		name string
		spec isolation.ProcessSpec
		want isolation.Exit
	}{
		{"success", isolation.ProcessSpec{Script: []byte("true")}, isolation.Exit{}},
		{"empty script", isolation.ProcessSpec{Script: []byte{}}, isolation.Exit{}},
		{"failure", isolation.ProcessSpec{Script: []byte("exit 3")}, isolation.Exit{Code: 3}},
		{"highest status", isolation.ProcessSpec{Script: []byte("exit 255")}, isolation.Exit{Code: 255}},
		{"terminated", isolation.ProcessSpec{Script: []byte("kill -TERM $$")}, isolation.Exit{Code: 143, Signal: 15}},
		{"killed", isolation.ProcessSpec{Script: []byte("kill -KILL $$")}, isolation.Exit{Code: 137, Signal: 9}},
		{"dumped core", isolation.ProcessSpec{Script: []byte("kill -SEGV $$")}, isolation.Exit{Code: 139, Signal: 11}},
		{"not found by the shell", isolation.ProcessSpec{Script: []byte("no-such-command")}, isolation.Exit{Code: 127}},
		{"command", isolation.ProcessSpec{Args: []string{"sh", "-c", "exit 4"}}, isolation.Exit{Code: 4}},
		{"detected shell", isolation.ProcessSpec{Stdin: strings.NewReader("exit 5\n")}, isolation.Exit{Code: 5}},
	} {
		t.Run(c.name, func(t *testing.T) {
			require.Equal(t, c.want, s.run(c.spec).Exit)
		})
	}
}

func TestStartRefused(t *testing.T) {
	s := startSandbox(t, sandboxOptions{change: func(root string) {
		require.NoError(t, os.WriteFile(root+"/bin/garbage", []byte("\x00"), 0o755))
		require.NoError(t, os.WriteFile(root+"/bin/plain", nil, 0o644))
	}})
	for _, c := range []struct {
		name  string
		spec  isolation.ProcessSpec
		class fault.Class
		says  string
	}{
		{"no such command", isolation.ProcessSpec{Args: []string{"nope"}}, fault.Author, `command "nope" not found in /usr/local/sbin`},
		{"no such path", isolation.ProcessSpec{Args: []string{"/nope"}}, fault.Author, "no such file"},
		{"not executable", isolation.ProcessSpec{Args: []string{"plain"}}, fault.Author, "not found"},
		{"permission", isolation.ProcessSpec{Args: []string{"/bin/plain"}}, fault.Author, "permission denied"},
		{"not a program", isolation.ProcessSpec{Args: []string{"garbage"}}, fault.Author, "exec format error"},
		{"no such user", isolation.ProcessSpec{Script: []byte("true"), User: "nobody-knows"}, fault.Author, `user "nobody-knows" does not exist`},
		{"big script, no such user", isolation.ProcessSpec{Script: make([]byte, 3<<20), User: "nobody-knows"}, fault.Author, "does not exist"},
		{"too big a script", isolation.ProcessSpec{Script: make([]byte, agent.MaxScript+1)}, fault.Author, "script"},
		{"too big an argument", isolation.ProcessSpec{Args: []string{"echo", strings.Repeat("x", 200_000)}}, fault.Author, "argument list too long"},
		{"too big an environment", isolation.ProcessSpec{Args: []string{"true"}, Env: []string{"A=" + strings.Repeat("x", 5<<20)}}, fault.Author, "environment"},
		{"bad environment", isolation.ProcessSpec{Args: []string{"true"}, Env: []string{"A"}}, fault.Author, "NAME=value"},
		{"missing from the helper root", isolation.ProcessSpec{Args: []string{"nope"}, Helper: true}, fault.Admin, "in the helper image"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := s.Start(soon(t), c.spec)
			require.ErrorContains(t, err, c.says)
			require.Equal(t, c.class, fault.ClassOf(err), err.Error())
		})
	}
	require.Equal(t, "still here", s.sh("echo still here"))
}

func TestSetupRefused(t *testing.T) {
	s := startSandbox(t, sandboxOptions{refused: true, setup: agent.Setup{Image: isolation.ImageConfig{User: "ghost"}}})
	require.Equal(t, fault.Author, fault.ClassOf(s.err))
	require.ErrorContains(t, s.err, `the user "ghost" does not exist in the image`)

	s = startSandbox(t, sandboxOptions{refused: true, change: func(root string) {
		require.NoError(t, os.Remove(root+"/builds"))
		require.NoError(t, os.Symlink("/etc", root+"/builds"))
	}})
	require.Equal(t, fault.System, fault.ClassOf(s.err))
	require.ErrorContains(t, s.err, "/builds")
}

func TestShell(t *testing.T) {
	t.Run("bash is preferred", func(t *testing.T) {
		s := startSandbox(t, sandboxOptions{change: func(root string) {
			require.NoError(t, os.MkdirAll(root+"/opt/bin", 0o755))
			require.NoError(t, os.WriteFile(root+"/opt/bin/bash", []byte("#!/bin/sh\necho bash ran $#\n"), 0o755))
		}, setup: agent.Setup{Image: isolation.ImageConfig{Env: []string{"PATH=/opt/bin:/bin"}}}})
		require.Equal(t, "bash ran 1", s.sh("echo sh ran"))
	})
	t.Run("none", func(t *testing.T) {
		s := startSandbox(t, sandboxOptions{change: func(root string) {
			require.NoError(t, os.RemoveAll(root+"/bin/sh"))
			// Leads to the shell of the agent's own root if it were followed outside of the chroot.
			require.NoError(t, os.RemoveAll(root+"-helper/bin/sh"))
			require.NoError(t, os.Symlink("/builds/../../../../../etc/passwd-nowhere", root+"-helper/bin/sh"))
		}})
		_, err := s.Start(soon(t), isolation.ProcessSpec{Script: []byte("true")})
		require.Equal(t, fault.Author, fault.ClassOf(err))
		require.ErrorContains(t, err, "the image has no shell")
		require.ErrorContains(t, err, "use an image that has one")
		_, err = s.Start(soon(t), isolation.ProcessSpec{Script: []byte("true"), Helper: true})
		require.Equal(t, fault.Admin, fault.ClassOf(err))
	})
	t.Run("link into the image is not followed from the helper root", func(t *testing.T) {
		s := startSandbox(t, sandboxOptions{change: func(root string) {
			require.NoError(t, os.Remove(root+"-helper/bin/sh"))
			require.NoError(t, os.Symlink("/only-in-the-image/sh", root+"-helper/bin/sh"))
			require.NoError(t, os.MkdirAll(root+"/only-in-the-image", 0o755))
			require.NoError(t, os.Symlink("/bin/busybox", root+"/only-in-the-image/sh"))
		}})
		_, err := s.Start(soon(t), isolation.ProcessSpec{Script: []byte("true"), Helper: true})
		require.ErrorContains(t, err, "no shell")
	})
}

func TestUser(t *testing.T) {
	for _, c := range []struct {
		user, id, home string
	}{
		{"", "uid=0(root) gid=0(root) groups=0(root)", "/root"},
		{"app", "uid=1000(app) gid=1001(app) groups=50(staff),999(docker),1001(app)", "/home/app"},
		{"1000", "uid=1000(app) gid=1001(app) groups=50(staff),999(docker),1001(app)", "/home/app"},
		{"app:staff", "uid=1000(app) gid=50(staff) groups=50(staff)", "/home/app"},
		{"4711", "uid=4711 gid=0(root) groups=0(root)", "/"},
		{"4711:4712", "uid=4711 gid=4712 groups=4712", "/"},
		{"nohome", "uid=1002(nohome) gid=1002 groups=1002", "/"},
	} {
		t.Run("user "+c.user, func(t *testing.T) {
			s := startSandbox(t, sandboxOptions{setup: agent.Setup{Image: isolation.ImageConfig{User: c.user}}})
			got := strings.Split(s.sh("id; echo $HOME; touch /builds/made; grep Cap[EPIA] /proc/self/status | sort -u -k2"), "\n")
			require.Equal(t, c.id, got[0])
			require.Equal(t, c.home, got[1])
			if c.user != "" {
				require.Regexp(t, `^CapAmb:\s+0000000000000000$`, got[2])
				require.Len(t, got, 3, "a user has no capabilities")
			}

			// A helper stage is the same user, although the helper's passwd file says otherwise.
			require.NoError(t, os.WriteFile(s.root+"-helper/etc/passwd", []byte("root:x:0:0::/:/bin/sh\napp:x:7:7::/:/bin/sh\n"), 0o644))
			helper := s.run(isolation.ProcessSpec{Helper: true, Script: []byte("touch /builds/of-helper $HOME/x; echo $HOME; stat -c %u:%g /builds /builds/made /builds/of-helper")})
			require.Zero(t, helper.Code, helper.stderr)
			lines := strings.Fields(helper.stdout)
			require.Equal(t, isolation.HomeDir, lines[0])
			require.Equal(t, lines[1], lines[2])
			require.Equal(t, lines[1], lines[3])
		})
	}
}

func TestUserOverride(t *testing.T) {
	s := startSandbox(t, sandboxOptions{setup: agent.Setup{Image: isolation.ImageConfig{User: "app"}}})
	require.Equal(t, "0\n", s.run(isolation.ProcessSpec{Args: []string{"id", "-u"}, User: "root"}).stdout)
	require.Equal(t, "1000\n", s.run(isolation.ProcessSpec{Args: []string{"id", "-u"}}).stdout)

	// The job adds a user to its image: a later process may be that user, helper stages stay what they were.
	s.run(isolation.ProcessSpec{User: "0", Script: []byte("echo app:x:0:0:::/bin/sh > /etc/passwd; echo new:x:77:77:::/bin/sh >> /etc/passwd")})
	require.Equal(t, "77\n", s.run(isolation.ProcessSpec{Args: []string{"id", "-u"}, User: "new"}).stdout)
	require.Equal(t, "1000\n", s.run(isolation.ProcessSpec{Args: []string{"id", "-u"}, Helper: true}).stdout)
}

func TestEnvironmentAndDirectory(t *testing.T) {
	s := startSandbox(t, sandboxOptions{setup: agent.Setup{
		Image:  isolation.ImageConfig{Env: []string{"A=image", "B=image", "HOME=/tmp"}, WorkingDir: "/usr"},
		Helper: &isolation.ImageConfig{Env: []string{"A=helper", "HOME=/nowhere"}, WorkingDir: "/etc"},
	}})
	script := []byte("echo $A $B $HOME $PWD $PATH $TERM")
	path := "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	for _, c := range []struct {
		name string
		spec isolation.ProcessSpec
		want string
	}{
		{"image", isolation.ProcessSpec{Script: script}, "image image /tmp /usr " + path},
		{"spec wins", isolation.ProcessSpec{Script: script, Env: []string{"B=1", "B=2", "HOME=/h", "PATH=/bin"}, Dir: "/tmp"}, "image 2 /h /tmp /bin"},
		{"no such directory", isolation.ProcessSpec{Script: script, Dir: "/builds/group/project"}, "image image /tmp /builds " + path},
		{"a file is no directory", isolation.ProcessSpec{Script: script, Dir: "/etc/passwd"}, "image image /tmp /builds " + path},
		{"helper", isolation.ProcessSpec{Script: script, Helper: true}, "helper /.airlock/home /etc " + path},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := s.run(c.spec)
			require.Equal(t, c.want, strings.TrimSpace(got.stdout), got.stderr)
		})
	}
	// The agent's own environment reaches nobody.
	require.NotContains(t, s.sh("env"), "SECRET")
	require.Equal(t, "0022", s.sh("umask"))
	require.Equal(t, "500", s.sh("cat /proc/self/oom_score_adj"), "the OOM killer must prefer it to the agent")
	own, err := os.ReadFile("/proc/" + strconv.Itoa(s.pid) + "/oom_score_adj")
	require.NoError(t, err)
	require.Equal(t, "0", strings.TrimSpace(string(own)))
}

func TestHelperRoot(t *testing.T) {
	s := startSandbox(t, sandboxOptions{})
	helper := func(script string) result {
		return s.run(isolation.ProcessSpec{Helper: true, Script: []byte(script)})
	}
	require.Zero(t, helper("test -e /etc/helper-root").Code, "it runs in the helper root")
	require.NotZero(t, s.run(isolation.ProcessSpec{Script: []byte("test -e /etc/helper-root")}).Code)
	require.NotZero(t, helper("touch /etc/x").Code, "it is read-only")

	t.Run("its home starts empty", func(t *testing.T) {
		// The author is root and plants what would run inside the next helper stage.
		s.sh("h=/.airlock/helper/.airlock/home; mkdir $h/.config; echo evil > $h/.config/x; ln -s /builds $h/link; touch /builds/kept")
		got := helper("ls -A $HOME; ls /builds")
		require.Equal(t, "kept\n", got.stdout)
	})
	t.Run("a home that is a link is replaced", func(t *testing.T) {
		s.sh("h=/.airlock/helper/.airlock; rmdir $h/home; ln -s /builds $h/home")
		got := helper("stat -c %F $HOME; touch $HOME/x")
		require.Equal(t, "directory\n", got.stdout, got.stderr)
		require.Equal(t, "kept", s.sh("ls /builds"))
	})
}

func TestWithoutHelperRoot(t *testing.T) {
	s := startSandbox(t, sandboxOptions{noHelper: true, setup: agent.Setup{Image: isolation.ImageConfig{User: "app"}}})
	got := s.run(isolation.ProcessSpec{Helper: true, Script: []byte("echo $HOME; id -u")})
	require.Equal(t, "/home/app\n1000\n", got.stdout)
}

func TestScript(t *testing.T) {
	s := startSandbox(t, sandboxOptions{setup: agent.Setup{Image: isolation.ImageConfig{User: "app"}}})
	t.Run("is private and removed", func(t *testing.T) {
		got := strings.Fields(s.sh("stat -c '%a %U' $0; stat -c '%a %U' /.airlock/scripts; ls /.airlock/scripts 2>&1 >/dev/null | wc -l; readlink /proc/self/fd/0"))
		require.Equal(t, []string{"700", "app", "711", "root", "1", "/dev/null"}, got)
		require.Empty(t, s.run(isolation.ProcessSpec{User: "0", Args: []string{"ls", "/.airlock/scripts"}}).stdout)
	})
	t.Run("may be large", func(t *testing.T) {
		script := bytes.Repeat([]byte(": "+strings.Repeat("x", 1000)+"\n"), 5000)
		got := s.run(isolation.ProcessSpec{Script: append(script, "wc -c < $0"...)})
		require.Equal(t, strconv.Itoa(len(script)+len("wc -c < $0")), strings.TrimSpace(got.stdout), got.stderr)
	})
	t.Run("is removed when the stage is killed", func(t *testing.T) {
		p := s.begin(isolation.ProcessSpec{Script: []byte("sleep 1000")})
		require.NoError(t, p.Signal(soon(t), 9))
		require.Equal(t, isolation.Exit{Code: 137, Signal: 9}, s.wait(p))
		require.Empty(t, s.run(isolation.ProcessSpec{User: "0", Args: []string{"ls", "/.airlock/scripts"}}).stdout)
	})
}

func TestStdin(t *testing.T) {
	s := startSandbox(t, sandboxOptions{})
	input := strings.Repeat("0123456789abcdef", 100_000)
	require.Equal(t, input, s.run(isolation.ProcessSpec{Args: []string{"cat"}, Stdin: strings.NewReader(input)}).stdout)

	// One that never reads its stdin can still be killed, although the input is stuck.
	p := s.begin(isolation.ProcessSpec{Args: []string{"sleep", "1000"}, Stdin: strings.NewReader(input)})
	time.Sleep(50 * time.Millisecond)
	require.NoError(t, p.Signal(soon(t), 9))
	require.Equal(t, 137, s.wait(p).Code)
}

func TestAgentIsOutOfReach(t *testing.T) {
	s := startSandbox(t, sandboxOptions{})
	got := s.run(isolation.ProcessSpec{Script: []byte(`
		for f in environ fd/3 mem exe root maps; do cat /proc/1/$f >/dev/null 2>&1 && echo read $f; ls /proc/1/$f/ >/dev/null 2>&1 && echo list $f; done
		for f in /proc/self/fd/*; do readlink $f | grep socket; done
		true`)})
	require.Equal(t, result{}, got)
}

func TestAgentSurvivesSignals(t *testing.T) {
	s := startSandbox(t, sandboxOptions{})
	s.sh("for n in $(seq 1 64); do kill -$n 1; done; sleep 0.1")
	_, err := s.Ping(soon(t))
	require.NoError(t, err)
	require.Equal(t, "here", s.sh("echo here"))
}

func TestNoDescriptorsLeakIntoProcesses(t *testing.T) {
	s := startSandbox(t, sandboxOptions{})
	p := s.begin(isolation.ProcessSpec{Args: []string{"sleep", "1000"}})
	require.Equal(t, "0 1 2", s.sh("echo $(ls /proc/$(pidof sleep)/fd)"))
	require.NoError(t, p.Signal(soon(t), 9))
	s.wait(p)
}

func TestDirectoriesOfSetup(t *testing.T) {
	s := startSandbox(t, sandboxOptions{setup: agent.Setup{Image: isolation.ImageConfig{User: "app"}}, change: func(root string) {
		require.NoError(t, os.Remove(root+"/cache"))
	}})
	for dir, want := range map[string][]uint32{"builds": {1000, 1001, 0o755}, "cache": {0, 0, 0o777}} {
		info, err := os.Stat(filepath.Join(s.root, dir))
		require.NoError(t, err)
		stat := info.Sys().(*syscall.Stat_t)
		require.Equal(t, want, []uint32{stat.Uid, stat.Gid, stat.Mode & 0o7777}, dir)
	}
}
