package report

import (
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/docker/go-units"
	"github.com/mattn/go-runewidth"
)

// unknown stands in a table where the store has no value.
const unknown = "N/A"

// none stands in a table where an image has no name.
const none = "<none>"

// missing is the ID of a step of a history whose image is not in the store.
const missing = "<missing>"

// shortID is the length in hex of an ID that was cut.
const shortID = 12

// columns measures text as terminals show it, whatever this one's language is.
var columns = &runewidth.Condition{StrictEmojiNeutral: true}

// Printable returns s in one line and without anything that a terminal obeys:
// tabs become spaces as with Docker, other control characters, line and
// paragraph separators, marks that turn the direction of writing, and bytes
// that are no UTF-8 become escapes of Go's syntax.
func Printable(s string) string {
	clean := true
	for _, r := range s {
		if hazard(r) {
			clean = false
			break
		}
	}
	if clean && utf8.ValidString(s) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); {
		r, n := utf8.DecodeRuneInString(s[i:])
		switch {
		case r == utf8.RuneError && n == 1:
			fmt.Fprintf(&b, `\x%02x`, s[i])
		case r == '\t':
			b.WriteByte(' ')
		case r == '\n':
			b.WriteString(`\n`)
		case r == '\r':
			b.WriteString(`\r`)
		case hazard(r) && r < 0x80:
			fmt.Fprintf(&b, `\x%02x`, r)
		case hazard(r):
			fmt.Fprintf(&b, `\u%04x`, r)
		default:
			b.WriteString(s[i : i+n])
		}
		i += n
	}
	return b.String()
}

// Path returns an absolute path in one line, from which it can be told: as it is
// if it is Printable, else quoted in Go's syntax, which no such path starts like.
func Path(p string) string {
	if Printable(p) == p {
		return p
	}
	return strconv.Quote(p)
}

func hazard(r rune) bool {
	return unicode.IsControl(r) || unicode.In(r, unicode.Zl, unicode.Zp, unicode.Bidi_Control)
}

// ellipsis cuts s to a width in columns, the last of which shows that something is missing.
func ellipsis(s string, width int) string {
	if columns.StringWidth(s) <= width {
		return s
	}
	used := 0
	for i, r := range s {
		if used += columns.RuneWidth(r); used > width-1 {
			return s[:i] + "…"
		}
	}
	return s
}

// truncateID returns the 12 hex digits by which people know an image.
func truncateID(id string) string {
	_, hex, ok := strings.Cut(id, ":")
	if !ok {
		return id
	}
	return hex[:min(shortID, len(hex))]
}

func humanSize(n int64) string {
	if n < 0 {
		return unknown
	}
	return units.HumanSizeWithPrecision(float64(n), 3)
}

// since is how long ago t was, in words. A time in the future is "Less than a second ago", as with Docker.
func since(now, t time.Time) string {
	return units.HumanDuration(now.Sub(t)) + " ago"
}
