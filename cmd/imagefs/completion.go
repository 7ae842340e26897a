package main

import (
	"github.com/spf13/cobra"
)

// shells are those that cobra can write completion scripts for.
var shells = map[string]func(*cobra.Command, *app) error{
	"bash":       func(root *cobra.Command, a *app) error { return root.GenBashCompletionV2(a.out, true) },
	"zsh":        func(root *cobra.Command, a *app) error { return root.GenZshCompletion(a.out) },
	"fish":       func(root *cobra.Command, a *app) error { return root.GenFishCompletion(a.out, true) },
	"powershell": func(root *cobra.Command, a *app) error { return root.GenPowerShellCompletionWithDesc(a.out) },
}

func newCompletionCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "completion SHELL",
		Short: "Print what makes a shell complete commands, flags and names of images",
		Long: `Print the script that makes a shell complete commands, flags, names of images and
mountpoints. SHELL is bash, zsh, fish or powershell.`,
		Example: `  source <(imagefs completion bash)
  imagefs completion bash > /etc/bash_completion.d/imagefs
  imagefs completion zsh > "${fpath[1]}/_imagefs"
  imagefs completion fish > ~/.config/fish/completions/imagefs.fish`,
		Args:      wants(1, 1),
		ValidArgs: []cobra.Completion{"bash", "fish", "powershell", "zsh"},
		RunE: func(cmd *cobra.Command, args []string) error {
			write, ok := shells[args[0]]
			if !ok {
				return usagef("completion: there is none for %q; there is for bash, fish, powershell and zsh", args[0])
			}
			return write(cmd.Root(), a)
		},
	}
}
