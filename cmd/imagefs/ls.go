package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"imagefs/store"
	"imagefs/store/report"
	"imagefs/store/rootfs"
)

type lsOptions struct {
	images    imagesOptions
	long      bool
	human     bool
	recursive bool
	all       bool
	directory bool
}

func newLsCommand(a *app) *cobra.Command {
	var o lsOptions
	cmd := &cobra.Command{
		Use:   "ls [IMAGE [PATH...]]",
		Short: "List directories of an image, or images",
		Long: `List directories of an image's root file system, as ls does: its root without a
PATH. Owners are numbers. Symbolic links are followed inside the image.

Without an IMAGE, or with what is no image but matches some, it is the same as
'imagefs images', with that command's flags.`,
		Example: `  imagefs ls nginx:1.25 /etc/nginx
  imagefs ls -l alpine:3.10
  imagefs ls -lR app:1 /srv
  imagefs ls`,
		Args:              wants(0, -1),
		ValidArgsFunction: a.completePaths(true),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runLs(cmd.Context(), a, o, args)
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&o.long, "long", "l", false, "mode, links, owner, size and time of each entry too")
	f.Bool("help", false, "help for ls") // -h is taken
	f.BoolVarP(&o.human, "human-readable", "h", false, "with -l, sizes like 1.5K and 2M")
	f.BoolP("one", "1", false, "one name a line, as it is anyway")
	_ = f.MarkHidden("one")
	f.BoolVarP(&o.all, "all", "a", false, "also names that begin with a dot; of images also those without a name that others were built on")
	f.BoolVarP(&o.recursive, "recursive", "R", false, "also what is below")
	f.BoolVarP(&o.directory, "directory", "d", false, "directories themselves, not what is in them")
	imageFlags(f, &o.images)
	return cmd
}

func runLs(ctx context.Context, a *app, o lsOptions, args []string) error {
	o.images.all = o.all
	if len(args) == 0 {
		return runImages(ctx, a, o.images)
	}
	root, _, done, err := a.openRoot(ctx, args[0])
	if len(args) == 1 && (errors.Is(err, store.ErrNotFound) || errors.Is(err, store.ErrInvalid)) {
		if ok, err := a.lsImages(ctx, o.images, args[0]); ok {
			return err
		}
	}
	if err != nil {
		return during("ls", err)
	}
	defer done()
	paths := args[1:]
	if len(paths) == 0 {
		paths = []string{"/"}
	}
	l := &lister{a: a, root: root, o: o, now: time.Now(), shown: terminal(a.stdout)}
	return l.paths(ctx, paths)
}

// lsImages lists the images that match a pattern; ok is false if there are none.
func (a *app) lsImages(ctx context.Context, o imagesOptions, pattern string) (ok bool, err error) {
	filter := report.Filter{All: o.all}
	if filter.Add("reference="+pattern) != nil {
		return false, nil
	}
	if list, err := a.listImages(ctx, filter); err != nil || len(list) == 0 {
		return false, nil
	}
	o.filters = append(o.filters, "reference="+pattern)
	return true, runImages(ctx, a, o)
}

// lister prints directories of one image.
type lister struct {
	a     *app
	root  *rootfs.FS
	o     lsOptions
	now   time.Time
	shown bool // on a terminal
}

type lsEntry struct {
	name string
	n    rootfs.Node
}

// paths lists what was named: first what is no directory, as with ls.
func (l *lister) paths(ctx context.Context, paths []string) error {
	var result error
	bad := func(p string, err error) {
		l.a.complain("ls", pathFirst(p, err))
		result = failed
	}
	var files, dirs []lsEntry
	for _, p := range paths {
		// A link that was named is followed, unless it is itself asked about.
		n, err := findNamed(l.root, p, !l.o.long && !l.o.directory)
		switch {
		case err != nil:
			bad(p, err)
		case n.IsDir() && !l.o.directory:
			dirs = append(dirs, lsEntry{p, n})
		default:
			files = append(files, lsEntry{p, n})
		}
	}
	l.print(files)
	for i, d := range dirs {
		if ctx.Err() != nil {
			return during("ls", ctx.Err())
		}
		err := l.dir(ctx, strings.TrimSuffix(d.name, "/"), d.name, d.n, i > 0 || len(files) > 0, len(paths) > 1 || l.o.recursive)
		if err != nil {
			bad(d.name, err)
		}
	}
	return result
}

// dir lists a directory. shown is its name in the header.
func (l *lister) dir(ctx context.Context, p, shown string, dir rootfs.Node, later, headed bool) error {
	if later {
		l.a.printf("\n")
	}
	if headed {
		l.a.printf("%s:\n", l.text(shown))
	}
	var entries []lsEntry
	if l.o.all {
		up, err := l.root.Find(p+"/..", true)
		if err != nil {
			return err
		}
		entries = append(entries, lsEntry{".", dir}, lsEntry{"..", up})
	}
	err := l.root.List(dir, func(name string, n rootfs.Node) error {
		if l.o.all || !strings.HasPrefix(name, ".") {
			entries = append(entries, lsEntry{name, n})
		}
		return nil
	})
	if err != nil {
		return err
	}
	if l.o.long {
		var blocks uint64
		for _, e := range entries {
			blocks += e.n.Blocks
		}
		l.a.printf("total %d\n", blocks/2)
	}
	l.print(entries)
	if !l.o.recursive {
		return nil
	}
	for _, e := range entries {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if e.n.IsDir() && e.name != "." && e.name != ".." {
			if err := l.dir(ctx, p+"/"+e.name, p+"/"+e.name, e.n, true, true); err != nil {
				return err
			}
		}
	}
	return nil
}

// text is a name as it is for a program, and without what a terminal obeys for people.
func (l *lister) text(name string) string {
	if l.shown {
		return report.Printable(name)
	}
	return name
}

// print prints entries, one a line, in columns if they are long.
func (l *lister) print(entries []lsEntry) {
	var rows [][]string
	var width [5]int
	for _, e := range entries {
		name := l.text(e.name)
		if !l.o.long {
			l.a.printf("%s\n", name)
			continue
		}
		size := strconv.FormatUint(e.n.Size, 10)
		if l.o.human {
			size = humanSize(e.n.Size)
		}
		switch e.n.Type() {
		case unix.S_IFCHR, unix.S_IFBLK:
			size = fmt.Sprintf("%d, %d", e.n.Rdev>>8&0xfff, e.n.Rdev&0xff|e.n.Rdev>>12&0xfff00)
		case unix.S_IFLNK:
			name += " -> " + l.text(l.root.Readlink(e.n))
		}
		row := []string{modeText(e.n.Mode), strconv.FormatUint(uint64(e.n.Nlink), 10), strconv.FormatUint(uint64(e.n.UID), 10),
			strconv.FormatUint(uint64(e.n.GID), 10), size, timeText(l.now, time.Unix(e.n.Sec, int64(e.n.Nsec))), name}
		for i := range width {
			width[i] = max(width[i], len(row[i]))
		}
		rows = append(rows, row)
	}
	for _, r := range rows {
		l.a.printf("%s %*s %-*s %-*s %*s %s %s\n", r[0], width[1], r[1], width[2], r[2], width[3], r[3], width[4], r[4], r[5], r[6])
	}
}

// humanSize is a size as ls -h shows it, rounded up.
func humanSize(n uint64) string {
	if n < 1024 {
		return strconv.FormatUint(n, 10)
	}
	f, unit := float64(n), -1
	for f >= 1024 && unit < 5 {
		f /= 1024
		unit++
	}
	if tenths := math.Ceil(f * 10); tenths < 100 {
		return fmt.Sprintf("%.1f%c", tenths/10, "KMGTPE"[unit])
	}
	if f = math.Ceil(f); f == 1024 && unit < 5 {
		return fmt.Sprintf("1.0%c", "KMGTPE"[unit+1])
	}
	return fmt.Sprintf("%.0f%c", f, "KMGTPE"[unit])
}

// timeText is a time as ls -l shows it: with the year if it is not near.
func timeText(now, t time.Time) string {
	if d := now.Sub(t); d < 0 || d > 182*24*time.Hour {
		return t.Format("Jan _2  2006")
	}
	return t.Format("Jan _2 15:04")
}

// modeText is a mode as ls -l shows it.
func modeText(mode uint32) string {
	kinds := map[uint32]byte{unix.S_IFREG: '-', unix.S_IFDIR: 'd', unix.S_IFLNK: 'l', unix.S_IFCHR: 'c', unix.S_IFBLK: 'b', unix.S_IFIFO: 'p', unix.S_IFSOCK: 's'}
	b := []byte("?rwxrwxrwx")
	if k, ok := kinds[mode&unix.S_IFMT]; ok {
		b[0] = k
	}
	for i := range 9 {
		if mode&(1<<(8-i)) == 0 {
			b[i+1] = '-'
		}
	}
	for _, s := range []struct {
		bit   uint32
		place int
		with  byte
	}{{unix.S_ISUID, 3, 's'}, {unix.S_ISGID, 6, 's'}, {unix.S_ISVTX, 9, 't'}} {
		if mode&s.bit == 0 {
			continue
		}
		if b[s.place] == 'x' {
			b[s.place] = s.with
		} else {
			b[s.place] = s.with - 'a' + 'A'
		}
	}
	return string(b)
}
