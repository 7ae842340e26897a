package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"imagefs/cmd/imagefs/detach"
	"imagefs/fusefs"
	"imagefs/fusefs/uring"
	"imagefs/store"
)

type mountOptions struct {
	foreground  bool
	allowOther  bool
	readOnly    bool
	passthrough bool
	listOrigin  bool
	suid        bool
	dev         bool
	noexec      bool // only as a word of -o, as mount(8) implies it for mounts by users
	debug       bool
	transport   string
	logFile     string
	words       []string // of -o
}

func newMountCommand(a *app) *cobra.Command {
	var o mountOptions
	cmd := &cobra.Command{
		Use:   "mount [STORE...] [DIR]",
		Short: "Show stores as a file system; without DIR list what is mounted",
		Long: `Show the stores at DIR, an existing directory: those that are named here or with
--store, else all that are found on this machine. The command returns when the
tree is ready; the program stays in the background until DIR is unmounted, with
imagefs umount or umount(8), or it gets SIGINT or SIGTERM. What a killed imagefs
left at DIR is cleared away. Without DIR it lists the mounts that there are.

DIR must not be, contain, or lie in a store. An ordinary user needs fusermount3
(Debian: the package fuse3) and a store that they can read.

Requests go over io_uring where the kernel has that switched on for FUSE (Linux
6.14; as root: echo 1 > ` + uring.Setting + `), which
makes first looks faster, and else over /dev/fuse. imagefs
itself never switches it on.

Options for -o: ro, passthrough, list_origin, allow_other, suid, dev, noexec,
transport=NAME, and those of every file system that change nothing here. With
mount(8) and in /etc/fstab the type is fuse.imagefs, the device a STORE, or none
for those that are found; there -o also takes store=STORE for more of them, and
with_suid and with_dev for --suid and --dev.
See also: imagefs help stores, imagefs help tree, imagefs help control.`,
		Example: `  sudo imagefs mount /mnt
  sudo imagefs mount --allow-other /var/lib/docker /mnt
  sudo imagefs mount /var/lib/docker old=/mnt/evidence/docker /mnt
  sudo mount -t fuse.imagefs /var/lib/docker /mnt -o ro,allow_other
  imagefs --store ~/copy/of/docker mount --read-only mnt
  imagefs mount --foreground mnt`,
		Args: wants(0, -1),
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]cobra.Completion, cobra.ShellCompDirective) {
			return nil, cobra.ShellCompDirectiveDefault
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return listMounts(a)
			}
			last := len(args) - 1
			a.stores = append(a.stores, args[:last]...)
			return runMount(cmd.Context(), a, o, args[last])
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&o.foreground, "foreground", "f", false, "stay in the foreground, for supervisors; tells systemd when it is ready")
	f.BoolVar(&o.allowOther, "allow-other", false, "let other users look too; files' modes decide what they may read")
	f.BoolVar(&o.readOnly, "read-only", false, "no ctl/, and images cannot be changed; the fastest way to read")
	f.BoolVar(&o.passthrough, "passthrough", false, "with --read-only: large files at the kernel's own speed, small ones slower; without it that is so anyway")
	f.BoolVar(&o.listOrigin, "list-origin", false, "list user.imagefs.layer, diffid and created_by of each file too, not only give them when asked")
	f.BoolVar(&o.suid, "suid", false, "honour setuid bits and file capabilities (root)")
	f.BoolVar(&o.dev, "dev", false, "honour device nodes (root)")
	f.StringVar(&o.transport, "transport", string(fusefs.Auto), "what requests go over: `NAME` auto, dev (/dev/fuse) or io_uring")
	f.StringVar(&o.logFile, "log-file", "", "append the log to a `FILE`, instead of standard error or, from the background, the journal")
	_ = cmd.RegisterFlagCompletionFunc("transport", cobra.FixedCompletions(
		[]cobra.Completion{string(fusefs.Auto), string(fusefs.Dev), string(fusefs.IOUring)}, cobra.ShellCompDirectiveNoFileComp))
	f.BoolVar(&o.debug, "debug", false, "log every request")
	f.StringSliceVarP(&o.words, "options", "o", nil, "mount `OPTIONS`, as mount(8) has them")
	return cmd
}

// ignored are options of mount(8) that say nothing to this file system, or what it does anyway.
var ignored = map[string]bool{
	"defaults": true, "nosuid": true, "nodev": true, "exec": true, "auto": true, "noauto": true,
	"user": true, "users": true, "nouser": true, "_netdev": true, "nofail": true,
	"atime": true, "noatime": true, "relatime": true, "diratime": true, "nodiratime": true, "strictatime": true,
	"async": true, "sync": true, "dirsync": true, "mand": true, "nomand": true, "lazytime": true, "nolazytime": true,
	"iversion": true, "noiversion": true, "silent": true, "loud": true, "group": true, "owner": true,
	"default_permissions": true, "nonempty": true,
}

// apply adds the words of -o to the options.
func (o *mountOptions) apply() error {
	flag := o.readOnly
	for _, w := range o.words {
		switch {
		case w == "ro":
			o.readOnly = true
		case w == "rw": // the last of the two counts, as with mount(8)
			o.readOnly = flag
		case w == "list_origin":
			o.listOrigin = true
		case w == "passthrough":
			o.passthrough = true
		case w == "allow_other":
			o.allowOther = true
		case w == "suid":
			o.suid = true
		case w == "dev":
			o.dev = true
		case w == "noexec":
			o.noexec = true
		case w == "remount":
			return advised{usagef("mount: options cannot change while it is mounted"), "unmount it and mount it again"}
		case w == "debug":
			o.debug = true
		case strings.HasPrefix(w, "transport="):
			o.transport = strings.TrimPrefix(w, "transport=")
		case w == "" || ignored[w] || strings.HasPrefix(w, "x-") || strings.HasPrefix(w, "comment=") || strings.HasPrefix(w, "user="):
		default:
			return usagef("mount: there is no option %q for -o", w)
		}
	}
	o.words = nil
	if o.transport == "" {
		o.transport = string(fusefs.Auto)
	}
	if _, err := fusefs.ParseTransport(o.transport); err != nil {
		return usagef("mount: %v", err)
	}
	return nil
}

func runMount(ctx context.Context, a *app, o mountOptions, dir string) error {
	if err := o.apply(); err != nil {
		return err
	}
	if os.Geteuid() != 0 {
		for name, set := range map[string]bool{"--suid": o.suid, "--dev": o.dev} {
			if set {
				return fmt.Errorf("mount: only root can mount with %s", name)
			}
		}
	}
	if !o.foreground && !detach.Second() {
		return runDetached()
	}
	path, err := prepareMountpoint(dir)
	if err != nil {
		return during("mount", err)
	}
	if !o.foreground {
		if err := leaveCaller(a, &o); err != nil {
			return during("mount", err)
		}
	}
	if err := serve(ctx, a, o, path); err != nil {
		return during("mount", err)
	}
	return nil
}

// runDetached has a second process serve, and returns when its tree is ready.
func runDetached() error {
	code, err := detach.Start()
	if err != nil {
		return fmt.Errorf("mount: start in the background: %w", err)
	}
	if code != exitOK {
		return &exitError{code} // it has told why
	}
	return nil
}

// leaveCaller makes this process, the second one, independent of its caller's
// directory and streams. What the options name stays what it is.
func leaveCaller(a *app, o *mountOptions) error {
	if o.logFile != "" {
		abs, err := filepath.Abs(o.logFile)
		if err != nil {
			return err
		}
		o.logFile = abs
	}
	specs, err := a.named()
	if err != nil {
		return err
	}
	a.stores = nil
	for _, s := range specs {
		a.stores = append(a.stores, s.String())
	}
	return detach.Leave()
}

// listMounts lists what is mounted, in the form of mount(8).
func listMounts(a *app) error {
	all, err := allMounts()
	if err != nil {
		return during("mount", err)
	}
	for _, m := range all {
		state := ""
		if m.state == "dead" {
			state = " dead: its imagefs was killed"
		}
		a.printf("%s on %s type %s (%s)%s\n", oneLine(m.Source), oneLine(m.Mountpoint), m.FSType, m.Options, state)
	}
	return nil
}

// openMountStore opens the store for a mount and checks that dir is not part of it.
func openMountStore(a *app, o mountOptions, dir string, log *slog.Logger) (store.Store, error) {
	st, err := a.openStore(openOptions{readOnly: o.readOnly, lazy: true, log: log})
	if err != nil {
		return nil, err
	}
	for _, root := range roots(st) {
		if err := refuseOverlap(dir, root); err != nil {
			st.Close()
			return nil, err
		}
	}
	return st, nil
}
