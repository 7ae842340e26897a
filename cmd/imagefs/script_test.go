package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/moby/sys/mountinfo"
	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"

	"imagefs/fusefs"
	"imagefs/store/storetest"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"imagefs": func() {
		// The stores of the machine that runs the tests are not looked for.
		systemRoot = os.Getenv("TEST_SYSTEM_ROOT")
		os.Exit(Main())
	}})
}

// TestScripts runs testdata/script: each is a user at a terminal, with a store
// of their own and the archives of archives in the working directory.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		UpdateScripts:       os.Getenv("UPDATE") != "",
		Setup:               setupScript,
		Condition: func(cond string) (bool, error) {
			switch cond {
			case "race":
				return storetest.Race, nil
			case "root":
				return os.Geteuid() == 0, nil
			case "bash-completion":
				_, err := os.Stat("/usr/share/bash-completion/bash_completion")
				if err != nil && os.Getenv("CI") == "true" {
					return false, fmt.Errorf("completion in bash cannot be tested: %w", err)
				}
				return err == nil, nil
			case "fuse":
				_, err := os.Stat("/dev/fuse")
				if err != nil && os.Getenv("CI") == "true" {
					return false, fmt.Errorf("mounts cannot be tested: %w", err)
				}
				return err == nil, nil
			}
			return false, fmt.Errorf("no condition %q", cond)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"damage": damage, "signal": signalServer, "mounted": mounted, "eventually": eventually, "code": code,
		},
	})
}

func setupScript(env *testscript.Env) error {
	env.Setenv("HOME", env.WorkDir+"/home")
	env.Setenv("IMAGEFS_STORE", env.WorkDir+"/store")
	env.Setenv("XDG_CACHE_HOME", env.WorkDir+"/cache")
	env.Setenv("XDG_DATA_HOME", env.WorkDir+"/data")
	env.Setenv("TEST_SYSTEM_ROOT", env.WorkDir+"/system")
	env.Setenv("TZ", "UTC")
	env.Setenv("GORACE", "atexit_sleep_ms=0") // each command would end a second later
	env.Setenv("TERM", "dumb")
	env.Defer(func() { unmountBelow(env.WorkDir) })
	for name, a := range archives() {
		if err := os.WriteFile(filepath.Join(env.WorkDir, name), a.Tar(), 0o644); err != nil {
			return err
		}
	}
	for name, img := range scriptImages {
		env.Setenv(strings.ToUpper(name), img.ID().Encoded())
		env.Setenv("SHORT_"+strings.ToUpper(name), img.ID().Encoded()[:12])
	}
	app := archives()["app.tar"].Tar()
	if err := os.WriteFile(filepath.Join(env.WorkDir, "app.tar.gz"), storetest.Gzip(app), 0o644); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(env.WorkDir, "cut.tar"), app[:len(app)*2/3], 0o644); err != nil {
		return err
	}
	l := storetest.NewLayout()
	l.Index(l.Manifest(scriptImages["arm"], storetest.Gzip), l.Manifest(scriptImages["one"], storetest.Gzip))
	return l.Write(filepath.Join(env.WorkDir, "layout"))
}

var (
	baseLayer = storetest.Files("etc/", "etc/os-release=ID=test\n", "bin/", "bin/tool=#!/bin/sh\n")
	oneLayer  = storetest.Files("etc/version=1\n")
	twoLayer  = storetest.Files("etc/version=2\n", "etc/.wh.os-release=")
)

// scriptImages are the images of the archives; their IDs are in the
// environment of a script, $ONE and so on.
var scriptImages = map[string]storetest.Image{
	"one":  {Names: []string{"app:1"}, Layers: [][]byte{baseLayer, oneLayer}},
	"two":  {Names: []string{"app:2"}, Layers: [][]byte{baseLayer, twoLayer}},
	"bare": {Layers: [][]byte{baseLayer}, Comment: "without a name"},
	"arm":  {Names: []string{"app:1"}, Layers: [][]byte{baseLayer, oneLayer}, Platform: "linux/arm64"},
	"evil": {Names: []string{"evil:1"}, Layers: [][]byte{storetest.Tar(storetest.Entry{Name: "../../out", Body: "x"})}},
}

func archives() map[string]*storetest.Archive {
	return map[string]*storetest.Archive{
		"app.tar":  storetest.Docker(scriptImages["one"], scriptImages["two"]),
		"new.tar":  storetest.Docker(storetest.Image{Names: []string{"app:1"}, Layers: [][]byte{twoLayer}}),
		"bare.tar": storetest.Docker(scriptImages["bare"]),
		"odd.tar":  storetest.Docker(storetest.Image{Names: []string{"odd:1"}, Layers: [][]byte{baseLayer, storetest.Files("odd\xff=x")}}),
		"evil.tar": storetest.Docker(scriptImages["evil"]),
		"again.tar": storetest.Docker(storetest.Image{Names: []string{"again:1"}, Layers: [][]byte{baseLayer,
			storetest.Tar(storetest.Entry{Name: "bin/tool", Body: "#!/bin/sh\n", Mode: 0o755}),
			storetest.Tar(storetest.Entry{Name: "bin/tool", Body: "#!/bin/sh\n", Mode: 0o755}, storetest.Entry{Name: "more"}),
			storetest.Tar(storetest.Entry{Name: "bin/tool", Body: "#!/bin/zh\n", Mode: 0o755})}}),
	}
}

// damage FILE GLOB: a byte of the one file that matches is changed.
func damage(ts *testscript.TestScript, neg bool, args []string) {
	files, err := filepath.Glob(ts.MkAbs(args[0]))
	ts.Check(err)
	if len(files) != 1 {
		ts.Fatalf("damage %s: %d files", args[0], len(files))
	}
	b, err := os.ReadFile(files[0])
	ts.Check(err)
	b[len(b)/2] ^= 1
	ts.Check(os.WriteFile(files[0], b, 0o644))
}

// servers returns the processes that serve mounts of a script's store.
func servers(ts *testscript.TestScript) []int {
	dirs, err := filepath.Glob("/proc/[0-9]*")
	ts.Check(err)
	var pids []int
	for _, d := range dirs {
		b, err := os.ReadFile(d + "/cmdline")
		args := strings.Split(string(b), "\x00")
		if err != nil || filepath.Base(args[0]) != "imagefs" || !slices.Contains(args, "mount") {
			continue
		}
		env, err := os.ReadFile(d + "/environ")
		if err != nil || !strings.Contains("\x00"+string(env), "\x00WORK="+ts.Getenv("WORK")+"\x00") {
			continue
		}
		// Who only waits for a process in the background has not left the working directory.
		if cwd, err := os.Readlink(d + "/cwd"); err != nil || cwd != "/" && !slices.Contains(args, "--foreground") {
			continue
		}
		var pid int
		_, err = fmt.Sscanf(filepath.Base(d), "%d", &pid)
		ts.Check(err)
		pids = append(pids, pid)
	}
	return pids
}

// signal NAME: to the one process that serves the script's store.
func signalServer(ts *testscript.TestScript, neg bool, args []string) {
	pids := servers(ts)
	if len(pids) != 1 {
		ts.Fatalf("%d serving processes", len(pids))
	}
	ts.Check(unix.Kill(pids[0], unix.SignalNum(args[0])))
}

// mounted DIR: imagefs is mounted there; with ! nothing is, and no process is left.
func mounted(ts *testscript.TestScript, neg bool, args []string) {
	m, err := mountAt(ts.MkAbs(args[0]))
	ts.Check(err)
	switch is := m != nil && m.FSType == fusefs.FSType; {
	case is == neg:
		ts.Fatalf("%s: mounted is %v", args[0], is)
	case neg && len(servers(ts)) > 0:
		ts.Fatalf("%s: nothing is mounted, and a process still serves it", args[0])
	}
}

// eventually unmounted DIR | dead DIR: within ten seconds; no process serves it any more.
func eventually(ts *testscript.TestScript, neg bool, args []string) {
	dir := ts.MkAbs(args[1])
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if m, err := mountAt(dir); err != nil || args[0] == "unmounted" && m != nil || args[0] == "dead" && !isDead(dir) {
			continue
		}
		if len(servers(ts)) == 0 {
			return
		}
	}
	ts.Fatalf("%v: not after ten seconds", args)
}

// code N ARGS…: imagefs ends with that exit code.
func code(ts *testscript.TestScript, neg bool, args []string) {
	err := ts.Exec("imagefs", args[1:]...)
	got := "0"
	if e, ok := err.(interface{ ExitCode() int }); ok {
		got = fmt.Sprint(e.ExitCode())
	} else if err != nil {
		ts.Fatalf("imagefs: %v", err)
	}
	if got != args[0] {
		ts.Fatalf("exit code %s, want %s", got, args[0])
	}
}

func unmountBelow(dir string) {
	all, err := mountinfo.GetMounts(mountinfo.PrefixFilter(dir))
	if err != nil {
		return
	}
	for _, m := range all {
		_ = unmount(m.Mountpoint, true)
	}
}
