package store

import (
	"context"
	"fmt"
	"io"
	"strings"

	digest "github.com/opencontainers/go-digest"
)

// What kinds of store need to take in what strangers wrote.

// IsID tells whether d is "sha256:" and 64 lower-case hexadecimal digits.
func IsID(d digest.Digest) bool {
	h, ok := strings.CutPrefix(string(d), "sha256:")
	return ok && IsHex64(h)
}

// IsHex64 tells whether s is 64 lower-case hexadecimal digits.
func IsHex64(s string) bool {
	for _, c := range []byte(s) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return len(s) == 64
}

// FewValues bounds the values in a JSON text without decoding it, each of which
// takes far more memory once it is decoded. Depth is bounded by package json.
// ErrTooLarge.
func FewValues(b []byte, most int) error {
	n, quoted := 0, false
	for i := 0; i < len(b); i++ {
		switch b[i] {
		case '\\':
			if quoted {
				i++
			}
		case '"':
			quoted = !quoted
		case ',', '{', '[':
			if !quoted {
				n++
			}
		}
	}
	if n > most {
		return fmt.Errorf("JSON of more than %d values: %w", most, ErrTooLarge)
	}
	return nil
}

// Interruptible returns a reader that stops, with the context's error, when the context ends.
func Interruptible(ctx context.Context, r io.Reader) io.Reader { return &ctxReader{ctx, r} }

type ctxReader struct {
	ctx context.Context
	r   io.Reader
}

func (r *ctxReader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.r.Read(p)
}
