package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"strings"
	"sync/atomic"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"imagefs/cmd/imagefs/detach"
	"imagefs/store/guard"
)

// app is one run of the command line.
type app struct {
	in     io.Reader
	out    *bufio.Writer // flushed at the end, and where a command says that something is done
	err    io.Writer
	stdout io.Writer

	stores []string   // of --store
	kind   string     // of the store that was opened, if one was named
	logs   logOptions // of --log-level and --log-format
	memory size       // of --cache-memory
	disk   size       // of --cache-size
	caught os.Signal  // the signal that ended the run, nil if none did
	docker string     // of --docker-host

	signals chan os.Signal // those that are meant to end the run; the first is taken here
	serving atomic.Bool    // the others are taken from signals, too; else they kill

	sources []string // where the stores are that were opened: see apart
}

func newApp(in io.Reader, out, err io.Writer) *app {
	return &app{in: in, out: bufio.NewWriter(out), err: err, stdout: out, logs: newLogOptions(), signals: make(chan os.Signal, 1)}
}

// run runs one command and returns the exit code.
func (a *app) run(args []string) (code int) {
	defer func() {
		if r := recover(); r != nil {
			a.tell("internal error: %s; this is a bug", oneLine(fmt.Sprint(r)))
			if os.Getenv("IMAGEFS_DEBUG") != "" {
				_, _ = a.err.Write(debug.Stack())
			}
			code = exitInternal
		}
	}()
	ctx, stop := a.untilSignal()
	defer stop()
	root := newRootCommand(a)
	if len(args) > 0 && (args[0] == cobra.ShellCompRequestCmd || args[0] == cobra.ShellCompNoDescRequestCmd) {
		a.completeFlags(root)
	}
	root.SetArgs(fromMount(root, args))
	root.SetIn(a.in)
	root.SetOut(a.out)
	root.SetErr(a.err)
	err := root.ExecuteContext(ctx)
	if flush := a.out.Flush(); err == nil && flush != nil {
		err = flush
	}
	return a.fail(err)
}

// untilSignal returns a context that ends with the first SIGINT, SIGTERM or
// SIGHUP. The second one kills, unless somebody takes it: then there is no moment
// in between in which it would.
func (a *app) untilSignal() (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(context.Background())
	signal.Notify(a.signals, detach.StopSignals...)
	go func() {
		select {
		case s := <-a.signals:
			a.caught = s
			if !a.serving.Load() {
				signal.Stop(a.signals) // and not Reset, which would take them from detach as well
			}
			cancel()
		case <-ctx.Done():
		}
	}()
	return ctx, func() { signal.Stop(a.signals); cancel() }
}

// fail tells the user about an error, if there is one, and returns the exit code.
func (a *app) fail(err error) int {
	var done *exitError
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &done):
		return done.code
	case errors.Is(err, unix.EPIPE):
		return exitError1 // the reader has seen enough
	case errors.Is(err, context.Canceled) && a.caught != nil:
		a.tell("%s", sentence(err))
		return exitSignal + int(a.caught.(syscall.Signal))
	}
	var bug *guard.Panic
	if errors.As(err, &bug) {
		a.tell("%s; this is a bug", sentence(err))
		if os.Getenv("IMAGEFS_DEBUG") != "" {
			_, _ = a.err.Write(bug.Stack)
		}
		return exitInternal
	}
	a.tell("%s", sentence(err))
	if isUsage(err) {
		return exitUsage
	}
	return exitError1
}

// complain tells about an error that does not end the command. The caller
// returns failed at the end.
func (a *app) complain(what string, err error) {
	a.flush()
	a.tell("%s: %s", what, sentence(err))
}

// terminal tells whether a stream is one.
func terminal(stream any) bool {
	f, ok := stream.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

func newRootCommand(a *app) *cobra.Command {
	root := &cobra.Command{
		Use:   "imagefs",
		Short: "Mount a container image store as a file system",
		Long: `imagefs mounts a container image store as a file system. Images become
directories, so that ls, cat, grep, diff, du, tar, chroot and every scanner work
on them with no daemon, no container and no extraction; and images are tagged,
removed and loaded by writing to files, or with the commands below.`,
		Example: `  sudo imagefs load -i nginx.tar
  sudo imagefs mount /mnt
  ls /mnt/images/nginx/1.25/rootfs/etc
  sudo imagefs umount /mnt

Docker's own images, as they are:

  sudo imagefs --store /var/lib/docker mount /mnt`,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return cmd.Help()
			}
			return unknownCommand(cmd, args[0])
		},
		SilenceErrors:     true,
		SilenceUsage:      true,
		Version:           versionNumber(),
		CompletionOptions: cobra.CompletionOptions{DisableDefaultCmd: true},
	}
	root.PersistentFlags().StringArrayVar(&a.stores, "store", nil, "a `STORE`, [NAME=][KIND:]PATH, any number of times (default $IMAGEFS_STORE, else all that are found); see 'imagefs help stores'")
	root.PersistentFlags().Var(&a.memory, "cache-memory", "of archives and blobs read in place, keep at most this much decompressed data in memory, a `SIZE` like 64m")
	root.PersistentFlags().Var(&a.disk, "cache-size", "and at most this much in the cache directory, a `SIZE` like 4g; 0 for none")
	root.PersistentFlags().Var(&a.logs.level, "log-level", "log this and what is worse (default info for mount, else warn)")
	root.PersistentFlags().Var(&a.logs.format, "log-format", "how the log looks (default text)")
	root.PersistentFlags().StringVar(&a.docker, "docker-host", "", "where to ask the Docker daemon that runs on a store for changes, a `HOST` like unix:///run/docker.sock (default $IMAGEFS_DOCKER_HOST, else $DOCKER_HOST and the usual sockets)")
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		if !cmd.HasParent() {
			return usagef("%w; see '%s --help'", err, cmd.CommandPath())
		}
		return usagef("%s: %w; see '%s --help'", cmd.Name(), err, cmd.CommandPath())
	})
	root.AddGroup(
		&cobra.Group{ID: "tree", Title: "The tree:"},
		&cobra.Group{ID: "images", Title: "Images:"},
		&cobra.Group{ID: "other", Title: "More:"},
	)
	add := func(group string, commands ...*cobra.Command) {
		for _, c := range commands {
			c.GroupID = group
			root.AddCommand(c)
		}
	}
	add("tree", newMountCommand(a), newUmountCommand(a), newMountsCommand(a))
	add("images", newLoadCommand(a), newImagesCommand(a), newHistoryCommand(a), newInspectCommand(a),
		newTagCommand(a), newRmiCommand(a), newPruneCommand(a), newImportCommand(a), newSaveCommand(a), newExportCommand(a), newCopyCommand(a),
		newLsCommand(a), newCatCommand(a), newDiffCommand(a), newWhichCommand(a), newCheckCommand(a))
	add("other", newCompletionCommand(a), newManCommand(), newVersionCommand(a))
	root.AddCommand(newImageCommand(a))
	root.SuggestionsMinimumDistance = 2
	cobra.AddTemplateFunc("join", strings.Join)
	root.SetHelpCommandGroupID("other")
	root.SetHelpCommand(newHelpCommand())
	root.AddCommand(helpTopics()...)
	root.SetUsageTemplate(usageTemplate)
	return root
}

func unknownCommand(cmd *cobra.Command, name string) error {
	if s := cmd.SuggestionsFor(name); len(s) > 0 {
		return usagef("there is no command %q; did you mean %s?", name, s[0])
	}
	return usagef("there is no command %q; see '%s --help'", name, cmd.Root().Name())
}

// wants returns a check of the number of arguments; most < 0 is any number.
func wants(least, most int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch n := len(args); {
		case n < least:
			return usagef("%s: %s is missing; see '%s --help'", cmd.Name(), operand(cmd, n), cmd.CommandPath())
		case most >= 0 && n > most:
			return usagef("%s: %q is one argument too many; see '%s --help'", cmd.Name(), args[most], cmd.CommandPath())
		}
		return nil
	}
}

// printf writes to standard output. What goes wrong there shows at the end.
func (a *app) printf(format string, args ...any) { _, _ = fmt.Fprintf(a.out, format, args...) }

// flush brings out what was printed so far, so that it stands before what comes on standard error.
func (a *app) flush() { _ = a.out.Flush() }

// tell writes one line to standard error.
func (a *app) tell(format string, args ...any) {
	_, _ = fmt.Fprintf(a.err, "imagefs: "+format+"\n", args...)
}

// absolute is filepath.Abs, or the path as it is where that cannot be told.
func absolute(path string) string {
	if abs, err := filepath.Abs(path); err == nil {
		return abs
	}
	return path
}
