package ctl

import (
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"imagefs/store"
)

// words splits a command at blanks. A word that starts with a quote is read as a
// shell reads it: all between single quotes stands for itself; between double
// quotes a backslash takes their meaning from ", \, $ and `, and stands for
// itself before all else; outside of quotes it takes it from any character; and
// what follows without a blank, quoted or not, belongs to the word. Nothing is
// expanded. In a word that starts otherwise quotes and backslashes are
// characters like others, so that /it's.tar needs none. Errors wrap ErrInvalid.
func words(s string) ([]string, error) {
	var out []string
	for {
		s = strings.TrimLeftFunc(s, unicode.IsSpace)
		if s == "" {
			return out, nil
		}
		n := strings.IndexFunc(s, unicode.IsSpace)
		if n < 0 {
			n = len(s)
		}
		w := s[:n]
		if quoted(s) {
			var err error
			if w, n, err = word(s); err != nil {
				return nil, fmt.Errorf("%w: %w", err, store.ErrInvalid)
			}
		}
		out, s = append(out, w), s[n:]
	}
}

// quoted tells whether a command starts with a quoted word.
func quoted(s string) bool { return s != "" && (s[0] == '"' || s[0] == '\'') }

var (
	errOpen = errors.New("a quote is not closed")
	errBare = errors.New("nothing follows a backslash")
)

// word reads the word that s starts with, which has quotes, and returns how long it is in s.
func word(s string) (w string, n int, err error) {
	var b strings.Builder
	for n < len(s) {
		switch c := s[n]; c {
		case '\'':
			end := strings.IndexByte(s[n+1:], '\'')
			if end < 0 {
				return "", 0, errOpen
			}
			b.WriteString(s[n+1 : n+1+end])
			n += end + 2
		case '"':
			for n++; ; n++ {
				if n == len(s) {
					return "", 0, errOpen
				}
				if s[n] == '"' {
					n++
					break
				}
				if s[n] == '\\' && n+1 < len(s) && strings.IndexByte("\"\\$`", s[n+1]) >= 0 {
					n++
				}
				b.WriteByte(s[n])
			}
		case '\\':
			if n++; n == len(s) {
				return "", 0, errBare
			}
			b.WriteByte(s[n])
			n++
		default:
			r, size := utf8.DecodeRuneInString(s[n:])
			if unicode.IsSpace(r) {
				return b.String(), n, nil
			}
			b.WriteString(s[n : n+size])
			n += size
		}
	}
	return b.String(), n, nil
}

// path is the one that a command of nothing else is: quoted, or all of the line
// as it is, blanks included.
func path(s string) (string, error) {
	if !quoted(s) {
		return s, nil
	}
	w, err := words(s)
	if err != nil {
		return "", err
	}
	if len(w) != 1 {
		return "", fmt.Errorf("want one path, got %d words: %w", len(w), store.ErrInvalid)
	}
	return w[0], nil
}
