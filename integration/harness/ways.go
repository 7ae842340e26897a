package harness

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"imagefs/integration/images"
)

// Act is something that is done to a store, in each way that there is of doing
// it. Its paths are relative: to the directory of Family for a command, to the
// mountpoint for files.
type Act struct {
	Name string
	// Commands are the arguments of imagefs, and of docker too ("image prune" for prune).
	Commands [][]string
	// Docker tells that docker has no such command, or another idea of it.
	NotDocker bool
	// Control are the writes to control files, as "file command"; none: the act has no such form.
	Control []string
	// Files is a shell script that works on files of the tree; "": there is no such form.
	Files string
	// Fails tells that the last step is refused.
	Fails bool
	// Want is the store afterwards, as FamilyState puts it.
	Want string
}

// Acts are done to a store with the images of Family.
var Acts = []Act{
	{
		Name:     "tag",
		Commands: [][]string{{"tag", "app:1", "me/new:v1"}},
		Control:  []string{"tag app:1 me/new:v1"},
		Files:    "mkdir -p images/me/new && ln -s ../../app/1 images/me/new/v1",
		Want:     "A app:1 me/new:v1 team/app:latest\nB app:2\nC other:1\nD",
	},
	{
		Name:     "retag",
		Commands: [][]string{{"tag", "app:1", "other:1"}},
		Control:  []string{"tag app:1 other:1"},
		Files:    "ln -sfn ../app/1 images/other/1",
		Want:     "A app:1 other:1 team/app:latest\nB app:2\nC\nD",
	},
	{
		Name:     "tag with a bad name",
		Commands: [][]string{{"tag", "app:1", "Me/New:v1"}},
		Control:  []string{"tag app:1 Me/New:v1"},
		Files:    "mkdir -p images/me && mkdir images/me/New",
		Fails:    true,
		Want:     "A app:1 team/app:latest\nB app:2\nC other:1\nD",
	},
	{
		Name:     "tag an image that is not there",
		Commands: [][]string{{"tag", "app:9", "app:3"}},
		Control:  []string{"tag app:9 app:3"},
		Files:    "ln -s 9 images/app/3",
		Fails:    true,
		Want:     "A app:1 team/app:latest\nB app:2\nC other:1\nD",
	},
	{
		Name:     "move a tag",
		Commands: [][]string{{"tag", "app:1", "app:3"}, {"rmi", "app:1"}},
		Control:  []string{"tag app:1 app:3", "rmi app:1"},
		Files:    "mv -T images/app/1 images/app/3",
		Want:     "A app:3 team/app:latest\nB app:2\nC other:1\nD",
	},
	{
		Name:     "remove one name of two",
		Commands: [][]string{{"rmi", "team/app"}},
		Control:  []string{"rmi team/app"},
		Files:    "rm images/team/app/latest",
		Want:     "A app:1\nB app:2\nC other:1\nD",
	},
	{
		Name:     "remove the last name",
		Commands: [][]string{{"rmi", "other:1"}},
		Control:  []string{"rmi other:1"},
		Files:    "id=$(readlink images/other/1) && rm images/other/1 && rmdir ids/${id##*/}",
		Want:     "A app:1 team/app:latest\nB app:2\nD",
	},
	{
		Name:     "remove by ID an image with one name",
		Commands: [][]string{{"rmi", "ID(app:2)"}},
		Control:  []string{"rmi ID(app:2)"},
		Files:    "rmdir ids/ID(app:2)",
		Want:     "A app:1 team/app:latest\nC other:1\nD",
	},
	{
		Name:     "remove by ID an image with names in two repositories",
		Commands: [][]string{{"rmi", "ID(app:1)"}},
		Control:  []string{"rmi ID(app:1)"},
		Files:    "rmdir ids/ID(app:1)",
		Fails:    true,
		Want:     "A app:1 team/app:latest\nB app:2\nC other:1\nD",
	},
	{
		Name:     "remove it with force",
		Commands: [][]string{{"rmi", "-f", "ID(app:1)"}},
		Control:  []string{"rmi -f ID(app:1)"},
		Files:    "rm images/app/1 images/team/app/latest && rmdir ids/ID(app:1)",
		Want:     "B app:2\nC other:1\nD",
	},
	{
		Name:     "remove what is not there",
		Commands: [][]string{{"rmi", "nothing:1"}},
		Control:  []string{"rmi nothing:1"},
		Files:    "rm images/nothing/1",
		Fails:    true,
		Want:     "A app:1 team/app:latest\nB app:2\nC other:1\nD",
	},
	{
		Name:      "take all names of a repository",
		Commands:  nil,
		NotDocker: true,
		Files:     "rm -r images/app",
		Want:      "A team/app:latest\nB\nC other:1\nD",
	},
	{
		Name:     "load",
		Commands: [][]string{{"load", "-i", "more.tar"}},
		Control:  []string{"load DIR/more.tar"},
		Files:    "cp DIR/more.tar ctl/load",
		Want:     "A app:1 team/app:latest\nB app:2\nC other:1\nD\nE more:1",
	},
	{
		Name:     "load half an archive",
		Commands: [][]string{{"load", "-i", "half.tar"}},
		Control:  []string{"load DIR/half.tar"},
		Files:    "cp DIR/half.tar ctl/load",
		Fails:    true,
		Want:     "A app:1 team/app:latest\nB app:2\nC other:1\nD",
	},
	{
		Name:     "import",
		Commands: [][]string{{"import", "root.tar", "me/base:v1"}},
		Control:  []string{"import DIR/root.tar me/base:v1"},
		Want:     "A app:1 team/app:latest\nB app:2\nC other:1\nD\nroot me/base:v1",
	},
	{
		Name:     "prune",
		Commands: [][]string{{"prune", "-f"}},
		Control:  []string{"prune dangling"},
		Want:     "A app:1 team/app:latest\nB app:2\nC other:1",
	},
	{
		Name:     "prune all",
		Commands: [][]string{{"prune", "-a", "-f"}},
		Control:  []string{"prune all"},
		Want:     "",
	},
	{
		Name:     "prune all with a label",
		Commands: [][]string{{"prune", "-a", "-f", "--filter", "label=tier=db"}},
		Control:  []string{"prune all label=tier=db"},
		Want:     "A app:1 team/app:latest\nB app:2\nD",
	},
	{
		Name:     "prune all without a label",
		Commands: [][]string{{"prune", "-a", "-f", "--filter", "label!=tier"}},
		Control:  []string{"prune all label!=tier"},
		Want:     "C other:1\nD",
	},
	{
		Name:     "prune all that is old",
		Commands: [][]string{{"prune", "-a", "-f", "--filter", "until=2001-01-01T00:00:00Z"}},
		Control:  []string{"prune all until=2001-01-01T00:00:00Z"},
		Want:     "A app:1 team/app:latest\nB app:2\nC other:1\nD",
	},
	{
		Name:      "prune nothing, and say what",
		Commands:  [][]string{{"prune", "-a", "--dry-run"}},
		NotDocker: true,
		Control:   []string{"prune all dry-run"},
		Want:      "A app:1 team/app:latest\nB app:2\nC other:1\nD",
	},
}

// familyLetters names each image by the file that its uppermost layer has.
var familyLetters = []string{"A", "B", "C", "D", "E", "root"}

// Family writes the archives that Acts are about into a directory: all.tar with
// four images that share a layer (A: app:1 and team/app:latest, B: app:2,
// C: other:1, with a label, D: no name, with another), more.tar with a fifth,
// half.tar, which is cut, and root.tar, a root file system.
func Family(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	at := time.Date(2020, 1, 2, 3, 4, 5, 0, time.UTC)
	image := func(letter, tier string, tags ...string) images.Image {
		// A config there is always: Docker's prune takes an image that has none for one with every label.
		i := images.Image{Tags: tags, Created: at, Config: map[string]any{}, Steps: []images.Step{
			{By: "ADD base", Layer: familyLayer(t, "base")}, {By: "ENV X=1"}, {By: "ADD " + letter, Layer: familyLayer(t, letter)}}}
		if tier != "" {
			i.Config = map[string]any{"Labels": map[string]string{"tier": tier}}
		}
		return i
	}
	write := func(name string, is ...images.Image) {
		var b strings.Builder
		if err := images.Write(&b, is...); err != nil {
			t.Fatal(err)
		}
		whole := b.String()
		for file, s := range map[string]string{name + ".tar": whole, "half.tar": whole[:len(whole)/2]} {
			if err := os.WriteFile(filepath.Join(dir, file), []byte(s), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	write("all", image("A", "", "app:1", "team/app:latest"), image("B", "", "app:2"), image("C", "db", "other:1"), image("D", "web"))
	write("more", image("E", "", "more:1"))
	if err := os.WriteFile(filepath.Join(dir, "root.tar"), familyLayer(t, "root"), 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

func familyLayer(t testing.TB, letter string) images.Layer {
	t.Helper()
	b := (&images.Tar{Time: time.Unix(1e9, 0)}).Dir("etc", 0o755).File("etc/"+letter, 0o644, []byte(letter+"\n"))
	l, err := b.Layer()
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// FamilyState is what a data root has of Family, read without imagefs: a line
// an image, with its letter and its names.
func FamilyState(t testing.TB, root string) string {
	t.Helper()
	letters := map[string]string{}
	for _, l := range familyLetters {
		letters[familyLayer(t, l).DiffID()] = l
	}
	var out []string
	for _, i := range ReadRoot(t, root) {
		letter := letters[i.DiffIDs[len(i.DiffIDs)-1]]
		if letter == "" {
			letter = i.ID
		}
		var names []string
		for _, n := range i.Names {
			if !strings.Contains(n, "@") {
				names = append(names, n)
			}
		}
		out = append(out, strings.TrimSpace(letter+" "+strings.Join(names, " ")))
	}
	slices.Sort(out)
	return strings.Join(out, "\n")
}

// Spell puts in what is different in each store and run: ID(ref) becomes the
// hex of an image's ID, DIR the directory of Family.
func Spell(t testing.TB, s, dir, root string) string {
	t.Helper()
	for _, i := range ReadRoot(t, root) {
		for _, n := range i.Names {
			s = strings.ReplaceAll(s, fmt.Sprintf("ID(%s)", n), strings.TrimPrefix(i.ID, "sha256:"))
		}
	}
	return strings.ReplaceAll(s, "DIR", dir)
}
