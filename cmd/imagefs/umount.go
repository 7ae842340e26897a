package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/moby/sys/mountinfo"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"imagefs/fusefs"
)

// lastWords is how long umount waits for the serving process to end.
const lastWords = 10 * time.Second

type umountOptions struct{ lazy, all bool }

func newUmountCommand(a *app) *cobra.Command {
	var o umountOptions
	cmd := &cobra.Command{
		Use:     "umount DIR|STORE...",
		Aliases: []string{"unmount"},
		Short:   "Unmount what imagefs mounted",
		Long: `Unmount what imagefs mounted at DIR, and wait until its process has ended. Instead
of a DIR a store is enough, if only one mount shows it: its name or its path, as
'imagefs mounts' lists them. Mounts of other programs are left alone. umount(8)
and fusermount3 -u do it too.`,
		Example: `  sudo imagefs umount /mnt
  sudo imagefs umount /var/lib/docker
  imagefs umount --all
  imagefs umount --lazy mnt`,
		Args: func(cmd *cobra.Command, args []string) error {
			if o.all {
				return wants(0, 0)(cmd, args)
			}
			return wants(1, -1)(cmd, args)
		},
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]cobra.Completion, cobra.ShellCompDirective) {
			var out []cobra.Completion
			all, _ := allMounts()
			for _, m := range all {
				out = append(out, m.Mountpoint)
			}
			for _, m := range all {
				for _, name := range m.names() {
					out = append(out, cobra.CompletionWithDesc(name, m.Mountpoint))
				}
			}
			return out, cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			var result error
			if o.all {
				all, err := ourMounts()
				if err != nil {
					return during("umount", err)
				}
				for _, m := range slices.Backward(all) { // what is mounted on another goes first
					args = append(args, m.Mountpoint)
				}
			}
			for _, dir := range args {
				if err := runUmount(cmd.Context(), o, dir); err != nil {
					a.complain("umount", err)
					result = failed
				}
			}
			return result
		},
	}
	cmd.Flags().BoolVarP(&o.all, "all", "a", false, "all mounts of imagefs")
	cmd.Flags().BoolVarP(&o.lazy, "lazy", "l", false, "now from the tree, and for good when nobody uses it any more")
	return cmd
}

func runUmount(ctx context.Context, o umountOptions, dir string) error {
	path, err := resolve(dir)
	var m *mountinfo.Info
	if err == nil {
		m, err = mountAt(path)
	}
	if m == nil {
		named, found := byName(dir)
		switch {
		case found != nil:
			return found
		case named != nil:
			m, path, err = named, named.Mountpoint, nil
		case errors.Is(err, fs.ErrNotExist):
			return advised{fmt.Errorf("no directory and no mounted store %s", dir), "'imagefs mounts' lists what is"}
		case err == nil:
			return advised{fmt.Errorf("%s is not mounted", path), "'imagefs mounts' lists what is"}
		}
	}
	if err != nil {
		return err
	}
	if m.FSType != fusefs.FSType {
		return advised{fmt.Errorf("%s is not a mount of imagefs, it is %s", path, m.FSType), "use umount(8)"}
	}
	if by := mountUser(m); by != uint32(os.Geteuid()) && os.Geteuid() != 0 {
		return advised{fmt.Errorf("%s was mounted by %s: %w", path, userName(by), unix.EPERM), "unmount it as they, or as root (sudo imagefs umount)"}
	}
	wait := watchLife(m.Major, m.Minor, mountUser(m))
	if err := unmount(path, o.lazy); err != nil {
		if errors.Is(err, unix.EBUSY) {
			return advised{fmt.Errorf("%s is in use", path), "find out by whom with 'fuser -vm " + path + "', or use --lazy"}
		}
		return err
	}
	if !o.lazy && !wait(ctx, lastWords) {
		return advised{fmt.Errorf("%s is unmounted, but its process has not ended", path),
			"a container or another mount namespace may still have the mount: 'grep -l " + path + " /proc/*/mountinfo' finds it"}
	}
	return nil
}

// userName returns a user's name, or number if there is none.
func userName(uid uint32) string {
	id := strconv.FormatUint(uint64(uid), 10)
	if u, err := user.LookupId(id); err == nil {
		return u.Username
	}
	return "the user " + id
}

// byName finds the mount that shows a store of that name or path, nil if none
// does. That several do is an error.
func byName(word string) (*mountinfo.Info, error) {
	all, err := allMounts()
	if err != nil {
		return nil, err
	}
	var found []*mountinfo.Info
	var at []string
	for _, m := range all {
		if m.Root == "/" && m.called(word) { // others are a part of one that was bound elsewhere
			found = append(found, m.Info)
			at = append(at, m.Mountpoint)
		}
	}
	switch len(found) {
	case 0:
		return nil, nil
	case 1:
		return found[0], nil
	}
	return nil, advised{fmt.Errorf("%s is mounted at %s", word, strings.Join(at, " and at ")), "say which"}
}
