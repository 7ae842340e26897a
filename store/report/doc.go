// Package report renders what Docker prints about images out of what any store
// knows of them: the table of images, the history, the object of `docker image
// inspect`. The command line and the mounted tree show the same bytes.
//
// It is pure: it reads interfaces and writes to an io.Writer. Formats are those
// of the docker command line: a table, "json", or a Go template, with the same
// names of fields and the same functions.
//
// What comes from an image is hostile. In a table every value stays in its
// cell: control characters are written as escapes, so that one entry is one
// row and a terminal does nothing but show it. A template gives the values as
// they are.
package report
