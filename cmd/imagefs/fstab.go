package main

import (
	"strings"

	"github.com/spf13/cobra"
)

// fromMount turns the arguments that mount(8) calls a file system's program
// with, SOURCE DIR -o OPTIONS, into those of the command mount. Others stay as they are.
//
// mount.fuse3 adds dev and suid to the options of root unless their opposites
// are there. Here an image's devices and setuid programs are only honoured by
// who asks for it: as with_dev and with_suid.
func fromMount(root *cobra.Command, args []string) []string {
	if len(args) != 4 || args[2] != "-o" || strings.HasPrefix(args[0], "-") || !strings.HasPrefix(args[1], "/") {
		return args
	}
	if c, _, err := root.Find(args[:1]); err == nil && c != root {
		return args
	}
	out := []string{"mount"}
	stores := []string{args[0]}
	if args[0] == "none" || args[0] == "imagefs" || args[0] == "" {
		stores = nil
	}
	var words []string
	for w := range strings.SplitSeq(args[3], ",") {
		store, isStore := strings.CutPrefix(w, "store=")
		switch {
		case isStore:
			stores = append(stores, store)
		case w == "dev" || w == "suid":
		case w == "with_dev" || w == "with_suid":
			words = append(words, strings.TrimPrefix(w, "with_"))
		default:
			words = append(words, w)
		}
	}
	if len(words) > 0 {
		out = append(out, "-o", strings.Join(words, ","))
	}
	return append(append(append(out, "--"), stores...), args[1])
}
