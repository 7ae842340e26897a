package main

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"imagefs/store"
	"imagefs/store/report"
	"imagefs/store/rootfs"
)

// Completion is silent about errors, changes nothing, and does not keep a shell waiting.
const (
	completeMost = 1000
	completeWait = 3 * time.Second
)

const noFiles = cobra.ShellCompDirectiveNoFileComp

// withStore calls offer with the store that the user means, and returns what it
// returns; nothing if there is no store or it takes too long.
func (a *app) withStore(offer func(context.Context, store.Store) []cobra.Completion) []cobra.Completion {
	ctx, cancel := context.WithTimeout(context.Background(), completeWait)
	defer cancel()
	got := make(chan []cobra.Completion, 1)
	go func() {
		var out []cobra.Completion
		defer func() {
			_ = recover()
			got <- out
		}()
		st, err := a.openStore(openOptions{readOnly: true, lazy: true, log: slog.New(slog.DiscardHandler)})
		if err != nil {
			return
		}
		defer st.Close()
		out = offer(ctx, st)
	}()
	select {
	case out := <-got:
		return out[:min(len(out), completeMost)]
	case <-ctx.Done():
		return nil
	}
}

// completeImages offers images, at most a number of them if that is not
// negative; those that were given already are left out.
func (a *app) completeImages(most int) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, prefix string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if most >= 0 && len(args) >= most {
			return nil, noFiles
		}
		out := a.withStore(func(ctx context.Context, st store.Store) []cobra.Completion { return imagesWith(ctx, st, prefix) })
		return slices.DeleteFunc(out, func(c cobra.Completion) bool { return slices.Contains(args, c) }), noFiles
	}
}

// imagesWith returns what names images and begins with what was typed: tags;
// digest references from their "@" on; IDs of images without a name, and of all
// from the second digit on.
func imagesWith(ctx context.Context, st store.Store, prefix string) []cobra.Completion {
	names, err := st.Names(ctx)
	if err != nil {
		return nil
	}
	var out []cobra.Completion
	named := map[string]bool{}
	for ref, id := range names.Tags {
		if named[string(id)] = true; strings.HasPrefix(ref, prefix) {
			out = append(out, ref)
		}
	}
	for ref := range names.Digests {
		if strings.Contains(prefix, "@") && strings.HasPrefix(ref, prefix) {
			out = append(out, ref)
		}
	}
	slices.Sort(out)
	ids, err := st.IDs(ctx) // sorted
	if err != nil {
		return out
	}
	for _, id := range ids {
		short := id.Encoded()[:12]
		if strings.HasPrefix(short, prefix) && (len(prefix) >= 2 || !named[string(id)]) {
			out = append(out, short)
		}
	}
	return out
}

// completeTag offers an image, then the repositories that a name could be in.
func (a *app) completeTag() cobra.CompletionFunc {
	images := a.completeImages(1)
	return func(cmd *cobra.Command, args []string, prefix string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if len(args) != 1 {
			return images(cmd, args, prefix)
		}
		return a.withStore(func(ctx context.Context, st store.Store) []cobra.Completion {
			names, err := st.Names(ctx)
			if err != nil {
				return nil
			}
			var out []cobra.Completion
			for ref := range names.Tags {
				repo := ref[:strings.LastIndexByte(ref, ':')+1]
				if strings.HasPrefix(prefix, repo) {
					repo = ref
				}
				if strings.HasPrefix(repo, prefix) {
					out = append(out, repo)
				}
			}
			slices.Sort(out)
			return slices.Compact(out)
		}), noFiles | cobra.ShellCompDirectiveNoSpace
	}
}

// completePaths offers images first, then paths in the image; more than one if many.
func (a *app) completePaths(many bool) cobra.CompletionFunc {
	images := a.completeImages(1)
	return func(cmd *cobra.Command, args []string, prefix string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if len(args) == 0 {
			return images(cmd, args, prefix)
		}
		if !many && len(args) > 1 {
			return nil, noFiles
		}
		out := a.withStore(func(ctx context.Context, st store.Store) []cobra.Completion {
			img, _, err := find(ctx, st, args[0])
			if err != nil {
				return nil
			}
			root, err := rootfs.Open(ctx, img)
			if err != nil {
				return nil
			}
			return pathsWith(root, prefix)
		})
		directive := noFiles
		if slices.ContainsFunc(out, func(p string) bool { return strings.HasSuffix(p, "/") }) {
			directive |= cobra.ShellCompDirectiveNoSpace // there is more to come
		}
		return out, directive
	}
}

var errEnough = errors.New("enough")

// pathsWith returns the paths that begin with what was typed, directories with a slash.
func pathsWith(root *rootfs.FS, prefix string) []cobra.Completion {
	up, base := "", prefix
	if i := strings.LastIndexByte(prefix, '/'); i >= 0 {
		up, base = prefix[:i+1], prefix[i+1:]
	}
	dir, err := root.Find(up, true)
	if err != nil || !dir.IsDir() {
		return nil
	}
	var out []cobra.Completion
	_ = root.List(dir, func(name string, n rootfs.Node) error {
		// Names that begin with a dot when a dot was typed, as shells do it.
		if !strings.HasPrefix(name, base) || base == "" && name[0] == '.' || report.Printable(name) != name {
			return nil
		}
		if n.IsDir() {
			name += "/"
		} else if to, err := root.Find(up+name, true); err == nil && to.IsDir() {
			name += "/"
		}
		if out = append(out, up+name); len(out) == completeMost {
			return errEnough
		}
		return nil
	})
	return out
}

// completeFlags gives the flags of all commands their values.
func (a *app) completeFlags(root *cobra.Command) {
	must := func(cmd *cobra.Command, flag string, f cobra.CompletionFunc) {
		if cmd.Flag(flag) == nil {
			return
		}
		if _, there := cmd.GetFlagCompletionFunc(flag); !there {
			_ = cmd.RegisterFlagCompletionFunc(flag, f)
		}
	}
	must(root, "store", completeStore)
	for _, cmd := range root.Commands() {
		if formats, ok := flagFormats[cmd.Name()]; ok {
			must(cmd, "format", cobra.FixedCompletions(formats, noFiles))
		}
		must(cmd, "filter", a.completeFilter(cmd.Name()))
		must(cmd, "compress", cobra.FixedCompletions([]cobra.Completion{"none", "gzip", "zstd"}, noFiles))
		must(cmd, "platform", cobra.FixedCompletions([]cobra.Completion{"linux/amd64", "linux/arm64", "linux/arm/v7", "linux/386", "linux/ppc64le", "linux/riscv64", "linux/s390x"}, noFiles))
		must(cmd, "to", completeTo)
		must(cmd, "as", cobra.NoFileCompletions)
		must(cmd, "message", cobra.NoFileCompletions)
	}
}

// flagFormats are the values of --format, where it is not free.
var flagFormats = map[string][]cobra.Completion{
	"images": {"json", "table", "table {{."}, "ls": {"json", "table", "table {{."}, "history": {"json", "table", "table {{."},
	"inspect": {"json", "{{json ."}, "version": {"json", "{{."}, "check": {"json"}, "save": {"docker", "oci", "oci-dir"},
}

// filters are the names of --filter, and their values where they are not free.
var filters = map[string][]string{"dangling": {"true", "false"}, "label": nil, "until": nil, "reference": nil, "before": nil, "since": nil}

// completeFilter offers names of filters, then values.
func (a *app) completeFilter(command string) cobra.CompletionFunc {
	return func(cmd *cobra.Command, _ []string, prefix string) ([]cobra.Completion, cobra.ShellCompDirective) {
		name, value, ok := strings.Cut(prefix, "=")
		var out []cobra.Completion
		if !ok {
			for f := range filters {
				if command == "prune" && (f == "reference" || f == "before" || f == "since") {
					continue
				}
				out = append(out, f+"=")
			}
			slices.Sort(out)
			return out, noFiles | cobra.ShellCompDirectiveNoSpace
		}
		for _, v := range filters[name] {
			out = append(out, name+"="+v)
		}
		if name == "reference" || name == "before" || name == "since" {
			for _, image := range a.withStore(func(ctx context.Context, st store.Store) []cobra.Completion { return imagesWith(ctx, st, value) }) {
				out = append(out, name+"="+image)
			}
		}
		return out, noFiles
	}
}

// completeStore offers the stores of this machine, then files.
func completeStore(_ *cobra.Command, _ []string, prefix string) ([]cobra.Completion, cobra.ShellCompDirective) {
	if prefix != "" && !strings.HasPrefix(prefix, "/var/") {
		return nil, cobra.ShellCompDirectiveDefault
	}
	var out []cobra.Completion
	for _, s := range findStores(openOptions{log: slog.New(slog.DiscardHandler)}) {
		if strings.HasPrefix(s.path, prefix) {
			out = append(out, s.path)
		}
	}
	return out, cobra.ShellCompDirectiveDefault
}

// completeTo offers kinds of targets, then files.
func completeTo(_ *cobra.Command, _ []string, prefix string) ([]cobra.Completion, cobra.ShellCompDirective) {
	var out []cobra.Completion
	for _, k := range append([]string{kinds[0].name}, targetNames()...) {
		if prefix != "" && strings.HasPrefix(k+":", prefix) && prefix != k+":" {
			out = append(out, k+":")
		}
	}
	return out, cobra.ShellCompDirectiveNoSpace
}
