package save

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/distribution/reference"
	digest "github.com/opencontainers/go-digest"

	"imagefs/store"
)

// Item is an image of an archive, with the names that it keeps there: familiar
// references with a tag, perhaps none.
type Item struct {
	Image store.Image
	Names []string
}

// Select finds the images that a user names, in that order, each once, as
// `docker save` does: a name with a tag is kept, one without stands for all tags
// of the repository, an ID or a digest keeps none. Errors wrap store.ErrNotFound
// and store.ErrInvalid, and for an image whose config is lost store.ErrCorrupt.
func Select(ctx context.Context, st store.Store, refs []string) ([]Item, error) {
	names, err := st.Names(ctx)
	if err != nil {
		return nil, err
	}
	var items []Item
	add := func(id digest.Digest, name string) error {
		n := slices.IndexFunc(items, func(i Item) bool { return i.Image.ID() == id })
		if n < 0 {
			img, err := st.Image(ctx, id)
			if err != nil {
				return err
			}
			if n = len(items); img.RawConfig() == nil {
				return img.Err()
			}
			items = append(items, Item{Image: img})
		}
		if name != "" && !slices.Contains(items[n].Names, name) {
			items[n].Names = append(items[n].Names, name)
		}
		return nil
	}
	for _, ref := range refs {
		tags := tagsOf(names, ref)
		for _, name := range tags {
			if err := add(names.Tags[name], name); err != nil {
				return nil, err
			}
		}
		if len(tags) > 0 {
			continue
		}
		id, name, err := store.Resolve(ctx, st, ref)
		if err != nil {
			return nil, err
		}
		if strings.Contains(name, "@") {
			name = ""
		}
		if err := add(id, name); err != nil {
			return nil, err
		}
	}
	if len(items) == 0 {
		return nil, fmt.Errorf("no images are named: %w", store.ErrInvalid)
	}
	return items, nil
}

// tagsOf returns the names in a repository, sorted; none if ref is not the name of one.
func tagsOf(names store.Names, ref string) []string {
	n, err := reference.ParseNormalizedNamed(ref)
	if err != nil || !reference.IsNameOnly(n) {
		return nil
	}
	prefix := reference.FamiliarName(n) + ":"
	var out []string
	for name := range names.Tags {
		if tag, ok := strings.CutPrefix(name, prefix); ok && !strings.Contains(tag, "/") {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}
