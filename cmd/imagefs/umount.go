package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"imagefs/fusefs"
)

// lastWords is how long umount waits for the serving process to end.
const lastWords = 10 * time.Second

type umountOptions struct{ lazy bool }

func newUmountCommand(a *app) *cobra.Command {
	var o umountOptions
	cmd := &cobra.Command{
		Use:     "umount DIR...",
		Aliases: []string{"unmount"},
		Short:   "Unmount what imagefs mounted",
		Long: `Unmount what imagefs mounted at DIR, and wait until its process has ended. Mounts
of other programs are left alone. umount(8) and fusermount3 -u do it too.`,
		Example: `  sudo imagefs umount /mnt
  imagefs umount --lazy mnt`,
		Args: wants(1, -1),
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]cobra.Completion, cobra.ShellCompDirective) {
			var out []cobra.Completion
			all, _ := ourMounts()
			for _, m := range all {
				out = append(out, m.Mountpoint)
			}
			return out, cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			var result error
			for _, dir := range args {
				if err := runUmount(cmd.Context(), o, dir); err != nil {
					a.complain("umount", err)
					result = failed
				}
			}
			return result
		},
	}
	cmd.Flags().BoolVarP(&o.lazy, "lazy", "l", false, "now from the tree, and for good when nobody uses it any more")
	return cmd
}

func runUmount(ctx context.Context, o umountOptions, dir string) error {
	path, err := resolve(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("no directory %s", dir)
	}
	if err != nil {
		return err
	}
	m, err := mountAt(path)
	if err != nil {
		return err
	}
	if m == nil {
		return fmt.Errorf("%s is not mounted", path)
	}
	if m.FSType != fusefs.FSType {
		return advised{fmt.Errorf("%s is not a mount of imagefs, it is %s", path, m.FSType), "use umount(8)"}
	}
	wait := watchLife(m.Major, m.Minor)
	if err := unmount(path, o.lazy); err != nil {
		if errors.Is(err, unix.EBUSY) {
			return advised{fmt.Errorf("%s is in use", path), "find out by whom with 'fuser -vm " + path + "', or use --lazy"}
		}
		return err
	}
	if !o.lazy && !wait(ctx, lastWords) {
		return fmt.Errorf("%s is unmounted, but its process has not ended", path)
	}
	return nil
}
