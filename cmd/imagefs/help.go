package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"imagefs/fusefs/ctl"
)

// usageTemplate is how commands tell of themselves.
const usageTemplate = `Usage:
{{- if .HasAvailableSubCommands}}
  {{.CommandPath}} COMMAND [flags]
{{- else}}
  {{.UseLine}}
{{- end}}
{{- if gt (len .Aliases) 0}}

Other names: {{join .Aliases ", "}}
{{- end}}
{{- if .HasExample}}

Examples:
{{.Example}}
{{- end}}
{{- if .HasAvailableSubCommands}}{{$all := .Commands}}
{{- range $group := .Groups}}

{{$group.Title}}
{{- range $all}}{{if and (eq .GroupID $group.ID) .IsAvailableCommand}}
  {{rpad .Name .NamePadding}}  {{.Short}}
{{- end}}{{end}}{{end}}
{{- if not .HasParent}}

Topics:
{{- range $all}}{{if .IsAdditionalHelpTopicCommand}}
  {{rpad (print "help " .Name) 14}}  {{.Short}}
{{- end}}{{end}}{{end}}
{{- end}}
{{- if .HasAvailableLocalFlags}}

Flags:
{{.LocalFlags.FlagUsagesWrapped 80 | trimTrailingWhitespaces}}
{{- end}}
{{- if .HasAvailableInheritedFlags}}

For all commands:
{{.InheritedFlags.FlagUsagesWrapped 80 | trimTrailingWhitespaces}}
{{- end}}
{{- if .HasAvailableSubCommands}}

'{{.CommandPath}} COMMAND --help' tells more about a command.
{{- end}}
`

func newHelpCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "help [COMMAND | TOPIC]",
		Short: "Explain a command or a topic",
		Long:  "Explain a command, or one of the topics tree, control, stores and exit.",
		Example: `  imagefs help mount
  imagefs help tree`,
		ValidArgsFunction: func(cmd *cobra.Command, args []string, prefix string) ([]cobra.Completion, cobra.ShellCompDirective) {
			var out []cobra.Completion
			for _, c := range cmd.Root().Commands() {
				if len(args) == 0 && !c.Hidden && strings.HasPrefix(c.Name(), prefix) {
					out = append(out, cobra.CompletionWithDesc(c.Name(), c.Short))
				}
			}
			return out, cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			c, rest, err := cmd.Root().Find(args)
			if err != nil || c == nil || c == cmd.Root() && len(rest) > 0 {
				return usagef("help: there is no command and no topic %q; see '%s help'", strings.Join(args, " "), cmd.Root().Name())
			}
			c.InitDefaultHelpFlag()
			return c.Help()
		},
	}
}

// helpTopics are commands that only explain something.
func helpTopics() []*cobra.Command {
	topic := func(name, short, text string) *cobra.Command {
		c := &cobra.Command{Use: name, Short: short, Long: text}
		c.SetHelpTemplate("{{.Long | trimTrailingWhitespaces}}\n")
		return c
	}
	return []*cobra.Command{
		topic("tree", "what is where in a mounted store", topicTree),
		topic("control", "commands as writes to files, and their errors", "Control files, in ctl/ of a mounted store\n\n"+ctl.Help),
		topic("stores", "which stores there are and how they are chosen", topicStores()),
		topic("exit", "exit codes", topicExit),
	}
}

const topicTree = `A mounted store

  README                 what this tree is, and five things to try
  images/<repo>/<tag>    a link to the image of that name
  digests/<alg>/<hex>    a link to the image of that repository digest
  ids/<id>/              an image: real directories that never change
      config.json        its config, byte for byte: sha256sum gives the ID
      inspect.json       what docker image inspect prints
      history            what docker history --no-trunc prints; history.json
      manifest.json      its manifest, where the store has one
      Dockerfile         rebuilt from the history, best effort
      image.tar          what docker save gives, made as it is read
      id created size architecture os parent tags digests
                         one value a line; no file where there is no value
      error              only in a broken image: what is wrong with it
      rootfs/            all layers merged: what a container would see
      layers/<n>/        bottom first, from 0
          diff/          the layer alone, whiteouts (.wh.*) included
          rootfs/        layers 0 to n merged
          layer.tar      byte for byte: sha256sum gives the diff ID
          changes        A, C or D and the path, against the layers below
          diffid chainid digest size created created_by
  diff/<a>..<b>/         two images compared; looked up, not listed. Each is a name
                         with + for /, or an ID or the first 12 digits of it; @N
                         behind it stands for the layers 0 to N
      changes            A, C or D and the path, and what differs: as imagefs diff
      summary            how many paths and bytes, each file once: as imagefs
                         diff --stat
      added/ changed/    those paths as trees, as the second image has them
      deleted/           those that only the first image has
  stores/<name>/         with several stores, what each of them has
      images/ diff/      as above, by its own names
      kind path          what it is, and where
      error              only where it cannot be read: why
  ctl/                   files to write commands to: imagefs help control,
                         which also tells how ln, mv, rm and rmdir change names

A repository is a directory for each part of its name: images/team/app/v1 is
team/app:v1. Where a tag and a deeper repository have the same name, the tag is
listed as :<tag>. Not listed, but there: images/<repo>:<tag>, :<tag> in every
repository, images/<repo>@sha256:<hex> and @sha256:<hex> in a repository for
digests, also with - for the :, and in ids/ every unique beginning of an ID of 12
digits or more.

A file that two images have from the same layer is one inode, so that diff -r,
cmp and du see at once that it is the same.

Changes by other programs show within a second. A file that is open stays
readable as long as the store has its bytes; after that, reads give ESTALE.
`

// topicStores has the kinds and their places from the table of kinds.
func topicStores() string {
	var b strings.Builder
	b.WriteString(topicStoresHead)
	for _, k := range kinds {
		fmt.Fprintf(&b, "  %-10s  %s\n", k.name, k.what)
	}
	b.WriteString("\nPlaces that are looked at, below ~/.local/share ($XDG_DATA_HOME) for ordinary\nusers first:\n\n")
	for _, k := range kinds {
		for _, p := range k.places {
			fmt.Fprintf(&b, "  %-10s  %-28s  %s\n", k.name, p.system, p.user)
		}
	}
	b.WriteString(topicStoresTail)
	return b.String()
}

const topicStoresHead = `Stores

Without --store, all stores that are found on this machine are shown together.
Only the embedded one is ever changed then; another must be named for that.

--store names one, any number of times; so does the environment variable
IMAGEFS_STORE, one a line. mount takes them before DIR too.

  imagefs --store /var/lib/docker images        whatever is there
  imagefs --store docker:/var/lib/docker images that, and nothing else
  imagefs --store /mnt/evidence images          one of another machine, somewhere
                                                below that directory
  imagefs --store ~/scratch load -i app.tar     an embedded one elsewhere
  imagefs mount /var/lib/docker old=/mnt/evidence /mnt
                                                two at once, one with a name

A STORE is [NAME=][KIND:]PATH. A PATH that begins like a NAME= or KIND: is
written ./PATH. Without NAME it is called like the last part of its path, at the
places below like the program it belongs to.

Kinds:

`

const topicStoresTail = `
Of several stores, the first that is named goes before the others; of those that
are found the order is that of the places. Where two have the same name of an
image, images/ has that of the first; stores/<name>/images/ has those of each. A
layer that several have is read from the first that has it whole, and is the same
inodes for the images of all.

A change goes to the store that has the image, a removal of a name to the store
whose name shows. load and import go to the embedded store, which they make, else
to the only one that can be written; prune to each that can. A store that cannot
do it says so (EOPNOTSUPP, EROFS). A store that was named and cannot be opened is
an error; one that was only found is left out with a warning.

The embedded store needs no daemon. Its layout on disk is Docker's own: a dockerd
that is started on a copy of it lists, runs and saves its images.

Docker's store is read in place, whether its daemon runs or not. If it was named
it is changed, too: with no daemon by the same rules as the embedded one, while
one runs by asking it, and nothing is written behind its back. It is asked at
--docker-host or IMAGEFS_DOCKER_HOST (unix:///PATH, tcp://HOST:PORT), else at
DOCKER_HOST, /var/run/docker.sock and $XDG_RUNTIME_DIR/docker.sock, and only if
its data root is this very directory; otherwise the change fails (EROFS) and says
why. containerd's store, where Docker 29 and later have their images, is read in
place and never written; a Docker that runs and has its images there is asked in
the same way, if its containerd has this very store open. What differs then: the
last name of an image is for a moment that of an empty image before it is gone; a
rename shows both names for a moment; and of a load of several images those stay
that the daemon finished before it failed at one.

What imagefs works out about the layers of stores that others wrote is kept in
/var/cache/imagefs, for ordinary users $XDG_CACHE_HOME/imagefs or
~/.cache/imagefs. It can be deleted at any time; a mount removes what nobody has
used for 60 days.

As an ordinary user, layers are unpacked under your name; owners, devices and
the like are then those that the archives say.
`

const topicExit = `Exit codes

    0   it is done
    1   it failed, wholly or for some of several images; check: the store has
        a problem. Why is on standard error, one line each: imagefs: what: why
    2   the command line is wrong; nothing was done; diff: any error, since 1
        says that the images differ
  125   imagefs itself failed: a bug; IMAGEFS_DEBUG=1 shows where
  130   interrupted (SIGINT), 143 terminated (SIGTERM): 128 and the number of
        the signal; what was half done has been taken back

imagefs mount --foreground exits with 0 when a signal made it unmount.
`
