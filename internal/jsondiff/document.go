package jsondiff

import (
	"bytes"
	"cmp"
	"errors"
	"math"
	"slices"
)

// A Document is one JSON text, checked and indexed. It is immutable.
type Document struct {
	polled []byte // as it was given
	text   []byte // compact, no name repeated; mostly the same memory
	index  *node  // nil where that is small
}

// Bytes returns the document without white space between its tokens and without
// members that a later one of the same name overrides. Strings and numbers stand in
// it as they were written. The bytes must not be changed.
func (d *Document) Bytes() []byte { return d.text }

// Parse makes a document of text, which must not be changed afterwards. It returns
// an error where text is not exactly one JSON value in UTF-8 (RFC 8259), begins with
// a byte order mark, has more than [MaxDepth] levels, or has 2 GiB.
func Parse(text []byte) (*Document, error) {
	if len(text) > maxLen {
		return nil, errLength
	}
	s := scanner{text: trim(text)}
	index := s.document()
	if s.err != nil { // most texts are compact, so this is found out by trying
		s = scanner{text: compact(s.text)}
		index = s.document()
	}
	switch {
	case bytes.HasPrefix(text, []byte("\ufeff")):
		// RFC 8259 §8.1 lets a parser ignore it; browsers do not.
		return nil, errMark
	case s.err != nil:
		return nil, s.err
	}
	if s.repeated {
		s = scanner{text: lastOfEachName(s.text)}
		index = s.document()
	}
	return &Document{text, s.text, index}, nil
}

const maxLen = math.MaxInt32 // of a text; offsets have 32 bits

var (
	errLength = errors.New("JSON text is too long")
	errMark   = errors.New("byte order mark before the JSON text")
)

// trim cuts off the white space around a document.
func trim(text []byte) []byte {
	if len(text) > 0 && text[0] > ' ' && text[len(text)-1] > ' ' {
		return text
	}
	return bytes.Trim(text, " \t\r\n")
}

// compact returns text without the white space between its tokens (RFC 8259 §2). It
// checks nothing, but leaves a space where two tokens would become one, so that what
// is not JSON does not become so.
func compact(text []byte) []byte {
	out := make([]byte, 0, len(text))
	from := 0 // what is before is in out, or white space
	for i := 0; i < len(text); {
		switch c := text[i]; {
		case c == '"':
			i = skipString(text, i)
		case !isSpace(c):
			i++
		default:
			out = append(out, text[from:i]...)
			for i < len(text) && isSpace(text[i]) {
				i++
			}
			if len(out) > 0 && i < len(text) && !structural[out[len(out)-1]] && !structural[text[i]] {
				out = append(out, ' ')
			}
			from = i
		}
	}
	return append(out, text[from:]...)
}

func isSpace(c byte) bool { return c <= ' ' && (c == ' ' || c == '\n' || c == '\r' || c == '\t') }

// structural are the characters that separate tokens.
var structural = [256]bool{'{': true, '}': true, '[': true, ']': true, ',': true, ':': true}

// lastOfEachName returns a checked text without the members that a later one of the
// same name overrides, as in JavaScript and most other readers (RFC 8259 §4).
func lastOfEachName(text []byte) []byte {
	_, cuts := overridden(text, 0, nil)
	slices.SortFunc(cuts, func(a, b span) int { return cmp.Compare(a.from, b.from) })
	out := make([]byte, 0, len(text))
	from := uint32(0)
	for _, c := range cuts { // some are inside others
		if c.from > from {
			out = append(out, text[from:c.from]...)
		}
		from = max(from, c.to)
	}
	return append(out, text[from:]...)
}

// overridden appends such members of the value at i to cuts, with the comma behind each,
// and returns where the value ends.
func overridden(text []byte, i int, cuts []span) (end int, all []span) {
	object := text[i] == '{'
	if !object && text[i] != '[' {
		return skip(text, i), cuts
	}
	last := make(map[string]span)
	for i++; text[i] != '}' && text[i] != ']'; {
		child, value := i, i
		if object {
			value = skipString(text, i) + len(":")
		}
		if i, cuts = overridden(text, value, cuts); text[i] == ',' {
			i++
		}
		if object {
			name := string(unescape(text[child : value-len(":")]))
			if before, ok := last[name]; ok {
				cuts = append(cuts, before)
			}
			last[name] = span{uint32(child), uint32(i)}
		}
	}
	return i + 1, cuts
}
