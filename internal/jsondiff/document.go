package jsondiff

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"unicode/utf8"
)

// MaxDepth is how many levels of arrays and objects a document may have.
const MaxDepth = 1000

// Document is a valid JSON text without white space between its tokens. Strings
// and numbers stand in it as they were written. It is immutable.
type Document struct {
	text []byte
}

// Parse checks text, which must not be changed afterwards, and makes a document
// of it. It returns an error where text is not exactly one JSON value in UTF-8,
// begins with a byte order mark, or has more than [MaxDepth] levels.
func Parse(text []byte) (*Document, error) {
	// RFC 8259 §8.1 lets a parser ignore a byte order mark; browsers do not.
	if bytes.HasPrefix(text, []byte("\ufeff")) {
		return nil, errors.New("byte order mark before the JSON text")
	}
	if !utf8.Valid(text) {
		return nil, errors.New("JSON text is not UTF-8")
	}
	var compact bytes.Buffer
	compact.Grow(len(text))
	if err := json.Compact(&compact, text); err != nil {
		return nil, fmt.Errorf("checking JSON text: %w", err)
	}
	if depth(compact.Bytes()) > MaxDepth {
		return nil, fmt.Errorf("JSON text has more than %d levels", MaxDepth)
	}
	if compact.Len() == len(text) {
		return &Document{text}, nil // one copy is enough
	}
	return &Document{bytes.Clone(compact.Bytes())}, nil
}

// Bytes returns the text, which must not be changed.
func (d *Document) Bytes() []byte { return d.text }

// depth counts the levels of a valid text, without recursion.
func depth(text []byte) int {
	level, deepest := 0, 0
	for i := 0; i < len(text); i++ {
		switch text[i] {
		case '"':
			i += stringLen(text[i:]) - 1
		case '{', '[':
			level++
			deepest = max(deepest, level)
		case '}', ']':
			level--
		}
	}
	return deepest
}

// stringLen returns the length of the string that text begins with, quotes
// included.
func stringLen(text []byte) int {
	for i := 1; i < len(text); i++ {
		switch text[i] {
		case '\\':
			i++
		case '"':
			return i + 1
		}
	}
	panic("jsondiff: internal error: string without an end in a checked text")
}
