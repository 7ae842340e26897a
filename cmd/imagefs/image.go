package main

import (
	"strings"

	"github.com/spf13/cobra"
)

// newImageCommand is for fingers that know docker image COMMAND. Help shows the
// commands where they are without it.
func newImageCommand(a *app) *cobra.Command {
	image := &cobra.Command{
		Use:   "image COMMAND",
		Short: "The commands for images, by the names of docker image",
		Long: `What 'docker image COMMAND' does, 'imagefs image COMMAND' does too: ls is
'imagefs images', rm is 'imagefs rmi', and the others are as they are without image.`,
		Example: `  imagefs image ls
  imagefs image prune`,
		Hidden: true,
		Args:   cobra.ArbitraryArgs,

		SuggestionsMinimumDistance: 2,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return cmd.Help()
			}
			return unknownCommand(cmd, args[0])
		},
	}
	for _, c := range []struct {
		name string // as docker image has it, "" for the command's own
		cmd  *cobra.Command
	}{
		{"ls", newImagesCommand(a)}, {"rm", newRmiCommand(a)}, {"", newHistoryCommand(a)}, {"", newImportCommand(a)}, {"", newInspectCommand(a)},
		{"", newLoadCommand(a)}, {"", newPruneCommand(a)}, {"", newSaveCommand(a)}, {"", newTagCommand(a)},
	} {
		if c.name != "" {
			_, rest, _ := strings.Cut(c.cmd.Use, " ")
			c.cmd.Use = c.name + " " + rest
		}
		image.AddCommand(c.cmd)
	}
	return image
}
