package report

import "io"

// WriteRows writes rows in a format as all commands have it: "" or "table" for
// the table that usual makes, a template of columns with tabs between them;
// "json" for one object a line; a template; or "table" with a template. header
// names the columns by field. ErrTemplate for a format that is none.
func WriteRows[T any](w io.Writer, format, usual string, header map[string]string, rows []T) error {
	if format == "" || format == tableFormat {
		format = tableFormat + " " + usual
	}
	return writeRows(w, format, header, rows)
}

// IsTable tells whether WriteRows makes a table of a format, which people read.
func IsTable(format string) bool { return format == "" || isTable(format) }

// ShortID is a digest as tables show it that cut what is long.
func ShortID(id string) string { return truncateID(id) }

// ShortStep is a step of a history as tables show it that cut what is long.
func ShortStep(createdBy string) string { return ellipsis(createdBy, createdByWidth) }
