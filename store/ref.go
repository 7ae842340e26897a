package store

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"sync"

	"github.com/distribution/reference"
	digest "github.com/opencontainers/go-digest"
)

// FamiliarTag normalises a reference with a tag to the form in which stores
// keep names: "docker.io/library/nginx" → "nginx:latest". ErrInvalid for what
// is no reference, or has a digest.
func FamiliarTag(s string) (string, error) {
	n, err := reference.ParseNormalizedNamed(s)
	if err != nil {
		return "", fmt.Errorf("reference %.300q: %w: %w", s, ErrInvalid, err)
	}
	if _, ok := n.(reference.Digested); ok {
		return "", fmt.Errorf("reference %.300q has a digest where a tag is needed: %w", s, ErrInvalid)
	}
	return reference.FamiliarString(reference.TagNameOnly(n)), nil
}

// NewTag is FamiliarTag for a name that an image is to get. As with Docker, none
// gets one of the repository "sha256": sha256:<hex> is an image's ID.
func NewTag(s string) (string, error) {
	ref, err := FamiliarTag(s)
	if err == nil && strings.HasPrefix(ref, digest.Canonical.String()+":") {
		return "", fmt.Errorf("reference %.300q would be taken for an image ID: %w", s, ErrInvalid)
	}
	return ref, err
}

// CheckTag fails, with ErrInvalid, for what is not what NewTag returns of it.
func CheckTag(ref string) error {
	f, err := NewTag(ref)
	if err == nil && f != ref {
		err = fmt.Errorf("reference %.300q is not in the form in which stores keep it, %s: %w", ref, f, ErrInvalid)
	}
	return err
}

// FamiliarDigest normalises a reference with a digest: "nginx@sha256:…".
// A tag beside the digest is dropped.
func FamiliarDigest(s string) (string, error) {
	n, err := reference.ParseNormalizedNamed(s)
	if err != nil {
		return "", fmt.Errorf("reference %.300q: %w: %w", s, ErrInvalid, err)
	}
	d, ok := n.(reference.Digested)
	if !ok {
		return "", fmt.Errorf("reference %.300q has no digest: %w", s, ErrInvalid)
	}
	return reference.FamiliarName(n) + "@" + d.Digest().String(), nil
}

// Compiled when it is first needed, as everywhere here: a mount in the background starts the program twice.
var hexID = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^(sha256:)?[0-9a-f]{4,64}$`) })

// Resolve finds the image that a user means: a reference (the tag "latest" is
// implied), a repository digest, or an image ID or a unique prefix of one of 4
// hex or more, with or without "sha256:". As with Docker, a name goes before
// an ID prefix that looks the same, a full ID before a name. An alias of the
// store's is as good as an ID, where none fits. ref is the
// familiar reference, "" if s was an ID. ErrNotFound, or ErrInvalid for what
// is neither or is ambiguous.
func Resolve(ctx context.Context, st Store, s string) (id digest.Digest, ref string, err error) {
	names, err := st.Names(ctx)
	if err != nil {
		return "", "", err
	}
	isHex := hexID().MatchString(s)
	full := strings.TrimPrefix(s, "sha256:")
	var idErr error
	if isHex && (len(full) == 64 || strings.HasPrefix(s, "sha256:")) {
		id, err = matchID(ctx, st, names, s, full)
		return id, "", err
	}
	if strings.Contains(s, "@") {
		if ref, err = FamiliarDigest(s); err != nil {
			return "", "", err
		}
		id = names.Digests[ref]
	} else if ref, err = FamiliarTag(s); err == nil {
		id = names.Tags[ref]
	}
	if id != "" {
		return id, ref, nil
	}
	if isHex {
		if id, idErr = matchID(ctx, st, names, s, full); idErr == nil {
			return id, "", nil
		} else if !errors.Is(idErr, ErrNotFound) {
			return "", "", idErr
		}
	}
	if err != nil {
		return "", "", err
	}
	return "", "", fmt.Errorf("no such image: %s: %w", ref, ErrNotFound)
}

// matchID finds the image that has an ID, or else an alias of one, with a prefix.
func matchID(ctx context.Context, st Store, names Names, s, prefix string) (found digest.Digest, err error) {
	ids, err := st.IDs(ctx)
	if err != nil {
		return "", err
	}
	ambiguous := fmt.Errorf("image ID %s is ambiguous: %w", s, ErrInvalid)
	for _, id := range ids {
		if strings.HasPrefix(id.Encoded(), prefix) {
			if found != "" {
				return "", ambiguous
			}
			found = id
		}
	}
	if found != "" {
		return found, nil
	}
	switch id, one := names.Alias("sha256:" + prefix); {
	case !one:
		return "", ambiguous
	case id == "":
		return "", fmt.Errorf("no such image: %s: %w", s, ErrNotFound)
	default:
		return id, nil
	}
}

// Canonical returns the full form of a familiar reference with a tag or a
// digest ("nginx:1.25" → "docker.io/library/nginx:1.25"); ok is false for what
// is no reference, has neither, or is not in familiar form.
func Canonical(familiar string) (full string, ok bool) {
	if slash, plain := plainRef(familiar); plain {
		if !slash {
			return "docker.io/library/" + familiar, true
		}
		return "docker.io/" + familiar, true
	}
	n, err := reference.ParseNormalizedNamed(familiar)
	if err != nil || reference.IsNameOnly(n) || reference.FamiliarString(n) != familiar {
		return "", false
	}
	return n.String(), true
}

// plainRef recognises most tag references of Docker Hub without the regular
// expressions that the full grammar takes, which cost a store of ten thousand
// names half a second: lower-case components with single separators, none of
// them special, and a tag.
func plainRef(s string) (slash, ok bool) {
	i := strings.IndexByte(s, ':')
	if i <= 0 || i > 200 || i == 64 || !IsTag(s[i+1:]) {
		return false, false
	}
	repo := s[:i]
	first, _, slash := strings.Cut(repo, "/")
	if first == "library" || first == "localhost" || strings.IndexByte(first, '.') >= 0 {
		return false, false
	}
	alnum := false // the previous byte is a letter or a digit
	for _, c := range []byte(repo) {
		switch {
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9':
			alnum = true
		case c == '.' || c == '-' || c == '_' || c == '/':
			if !alnum {
				return false, false
			}
			alnum = false
		default:
			return false, false
		}
	}
	return slash, alnum
}

// IsTag tells whether s fits the grammar of a tag.
func IsTag(s string) bool {
	if s == "" || len(s) > 128 || s[0] == '.' || s[0] == '-' {
		return false
	}
	for _, c := range []byte(s) {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '_', c == '.', c == '-':
		default:
			return false
		}
	}
	return true
}
