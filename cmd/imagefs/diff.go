package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"imagefs/store"
	"imagefs/store/rootfs"
)

// The exit codes of diff, which are those of diff(1).
const (
	exitDiffer  = 1
	exitTrouble = 2
)

type diffOptions struct {
	json, stat bool
	color      colorWhen
}

func newDiffCommand(a *app) *cobra.Command {
	o := diffOptions{color: "auto"}
	cmd := &cobra.Command{
		Use:   "diff IMAGE IMAGE",
		Short: "Compare the root file systems of two images",
		Long: `Compare the root file systems of two images, path by path:

  A PATH          only the second has it
  D PATH          only the first has it
  C PATH (WHAT)   both have it, and WHAT differs: type, content, mode, owner,
                  time, xattr, link (a symbolic link's target)

What both take from the same layer is not looked at; of other files the content
is compared, so a file that was only moved into another layer is no difference.
IMAGE@N stands for the layers 0 to N of an image, as layers/N/rootfs does in the tree.

--stat counts the paths of each kind and the bytes of the regular files among them, a
file with several names once, as du does; of what was changed, the second's. growth is
what the files of the second take more than those of the first: a file of which one name
is gone and another stays takes what it took.

With --json a path that is no UTF-8 is in path_bytes too, in base64. A mounted store
has the same, and the files as trees, in diff/<a>..<b>/: imagefs help tree.

The exit code is 0 if nothing differs, 1 if something does, and 2 after an error.`,
		Example: `  imagefs diff nginx:1.24 nginx:1.25
  imagefs diff --stat nginx:1.24 nginx:1.25
  imagefs diff --json app:1 app:2 | jq -r 'select(.differs[]? == "owner").path'
  imagefs diff app:1@3 app:1@4`,
		Args:              wants(2, 2),
		ValidArgsFunction: a.completeImages(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			err := runDiff(cmd.Context(), a, o, args[0], args[1])
			var said *exitError
			if err == nil || errors.As(err, &said) || errors.Is(err, context.Canceled) || errors.Is(err, unix.EPIPE) {
				return err
			}
			a.complain("diff", err)
			return &exitError{exitTrouble}
		},
	}
	f := cmd.Flags()
	f.BoolVar(&o.json, "json", false, "one JSON object a line for each difference; with --stat one for all")
	f.BoolVar(&o.stat, "stat", false, "only how many paths and bytes")
	f.Var(&o.color, "color", "colour the lines: `WHEN` auto (on a terminal, unless NO_COLOR is set), always or never")
	_ = cmd.RegisterFlagCompletionFunc("color", cobra.FixedCompletions(colorTimes, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

func runDiff(ctx context.Context, a *app, o diffOptions, from, to string) error {
	st, err := a.openStore(openOptions{})
	if err != nil {
		return err
	}
	defer st.Close()
	x, err := rootOf(ctx, st, from)
	if err != nil {
		return err
	}
	y, err := rootOf(ctx, st, to)
	if err != nil {
		return err
	}
	var tally rootfs.Tally
	differ := false
	var failed error
	colored := o.color.on(a)
	lines := json.NewEncoder(a.out)
	var line []byte
	err = rootfs.Diff(ctx, x, y, func(d rootfs.Difference) bool {
		differ = true
		switch {
		case o.stat:
			tally.Add(d)
		case o.json:
			failed = lines.Encode(jsonDifference(d))
		default:
			line = line[:0]
			if colored {
				line = append(line, diffColors[d.Op]...)
			}
			if line = d.AppendLine(line); colored {
				line = append(line[:len(line)-1], plain+"\n"...)
			}
			_, failed = a.out.Write(line)
		}
		return failed == nil
	})
	if err = errors.Join(err, failed); err != nil {
		return err
	}
	if o.stat {
		sum, err := tally.Summary(ctx, x, y)
		if err != nil {
			return err
		}
		if o.json {
			err = lines.Encode(sum)
		} else {
			_, err = io.WriteString(a.out, sum.String())
		}
		if err != nil {
			return err
		}
	}
	// What cannot be written is trouble, whatever differs.
	if err == nil {
		err = a.out.Flush()
	}
	if err == nil && differ {
		err = &exitError{exitDiffer}
	}
	return err
}

var diffColors = map[byte]string{'A': green, 'D': red, 'C': yellow}

// rootOf opens the root file system of an image, or of an image up to a layer.
func rootOf(ctx context.Context, st store.Store, image string) (*rootfs.FS, error) {
	ref, n := image, -1
	if r, digits, ok := cutLast(image, "@"); ok && digits != "" && strings.Trim(digits, "0123456789") == "" {
		i, err := strconv.Atoi(digits)
		if err != nil {
			return nil, fmt.Errorf("no layer %s: %w", digits, store.ErrNotFound)
		}
		ref, n = r, i
	}
	img, _, err := find(ctx, st, ref)
	switch {
	case err != nil:
		return nil, err
	case n >= 0:
		return rootfs.OpenUpTo(ctx, img, n)
	}
	return rootfs.Open(ctx, img)
}

func cutLast(s, sep string) (before, after string, ok bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}

// difference is a line of --json.
type difference struct {
	Op      string     `json:"op"`
	Path    string     `json:"path"`
	Bytes   []byte     `json:"path_bytes,omitempty"` // base64, of a path that is no UTF-8
	Differs []string   `json:"differs,omitempty"`
	From    *sideEntry `json:"from,omitempty"`
	To      *sideEntry `json:"to,omitempty"`
}

// sideEntry is what one of the two has.
type sideEntry struct {
	Type   string    `json:"type"`
	Mode   string    `json:"mode"` // octal, with setuid, setgid and sticky
	UID    uint32    `json:"uid"`
	GID    uint32    `json:"gid"`
	Size   uint64    `json:"size"`
	MTime  time.Time `json:"mtime"`
	Device string    `json:"device,omitempty"` // major:minor
}

func jsonDifference(d rootfs.Difference) difference {
	out := difference{Op: string(d.Op), Path: d.Path}
	if !utf8.ValidString(d.Path) {
		out.Bytes = []byte(d.Path) // in a JSON string it would be another path
	}
	if d.Op == 'C' {
		out.Differs = strings.Split(d.What.String(), ",")
	}
	if d.Op != 'A' {
		out.From = sideOf(d.From)
	}
	if d.Op != 'D' {
		out.To = sideOf(d.To)
	}
	return out
}

var typeNames = map[uint32]string{
	unix.S_IFREG: "file", unix.S_IFDIR: "directory", unix.S_IFLNK: "symlink", unix.S_IFCHR: "char",
	unix.S_IFBLK: "block", unix.S_IFIFO: "fifo", unix.S_IFSOCK: "socket",
}

func sideOf(n rootfs.Node) *sideEntry {
	e := &sideEntry{
		Type: typeNames[n.Type()], Mode: fmt.Sprintf("%04o", n.Mode&0o7777), UID: n.UID, GID: n.GID,
		Size: n.Size, MTime: time.Unix(n.Sec, int64(n.Nsec)).UTC(),
	}
	if t := n.Type(); t == unix.S_IFCHR || t == unix.S_IFBLK {
		// As FUSE carries it; see overlay.Attr.
		e.Device = fmt.Sprintf("%d:%d", n.Rdev>>8&0xfff, n.Rdev&0xff|n.Rdev>>12&0xfff00)
	}
	return e
}
