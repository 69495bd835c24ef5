package jsondiff

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"unicode/utf8"
)

// MaxDepth is how many levels of arrays and objects a document may have.
const MaxDepth = 1000

var (
	errSyntax = errors.New("not exactly one valid JSON value")
	errUTF8   = errors.New("JSON text is not UTF-8")
	errDepth  = fmt.Errorf("JSON text has more than %d levels", MaxDepth)
)

// A scanner checks compact JSON text, of which no byte is trusted, and indexes it
// on the way. Its methods are told where something starts and return where it
// ends. The first error stays in err; from then on everything ends at the end of
// the text, where nothing that is open can go on.
type scanner struct {
	text   []byte
	err    error
	marks  []mark    // of the containers that are open, the innermost last
	shapes [16]shape // by a hash of how objects begin

	repeated bool // two members of an object have the same name
}

// A shape is what the names of an object are, no two the same, with the colons
// behind them. Objects are so often like the one before that guessing their names
// is faster than reading them.
type shape []span

// A span is a part of a text.
type span struct{ from, to uint32 }

func (x span) of(text []byte) []byte { return text[x.from:x.to] }

func (s *scanner) fail(err error) int {
	if s.err == nil {
		s.err = err
	}
	return len(s.text)
}

// document reads the whole text.
func (s *scanner) document() *node {
	end, index := s.value(0, MaxDepth)
	if end != len(s.text) {
		s.fail(errSyntax)
	}
	return index
}

// value reads the value at i, which may hold that many levels.
func (s *scanner) value(i, levels int) (end int, index *node) {
	if i >= len(s.text) {
		return s.fail(errSyntax), nil
	}
	switch s.text[i] {
	case '"':
		return s.string(i), nil
	case '{':
		return s.object(i, levels)
	case '[':
		return s.array(i, levels)
	case 't':
		return s.literal(i, "true"), nil
	case 'f':
		return s.literal(i, "false"), nil
	case 'n':
		return s.literal(i, "null"), nil
	default:
		return s.number(i), nil
	}
}

func (s *scanner) object(start, levels int) (end int, index *node) {
	text, i := s.text, start+1
	if levels == 0 {
		return s.fail(errDepth), nil
	}
	if i < len(text) && text[i] == '}' {
		return i + 1, nil
	}
	var slot uint32
	if len(text)-i > 5 {
		slot = binary.LittleEndian.Uint32(text[i+1:]) * 0x9e3779b1 >> 28
	}
	names, guessed := s.shapes[slot], true
	s.shapes[slot] = nil // an object inside this one takes another
	if names == nil {
		names = make(shape, 0, 16)
	}
	o := s.open(start)
	for k := 0; ; k++ {
		name := i
		if k < len(names) && hasPrefix(text[i:], names[k].of(text)) {
			i += int(names[k].to - names[k].from)
		} else {
			i = s.name(i)
			names, guessed = append(names[:k], span{uint32(name), uint32(i)}), false
		}
		var sub *node
		i, sub = s.value(i, levels-1)
		s.child(&o, name, sub)
		if i = s.next(i, '}'); i < len(text) && text[i] != '}' {
			continue
		}
		s.shapes[slot] = names[:k+1]
		if s.err == nil && !guessed {
			s.checkNames(names[:k+1])
		}
		return s.close(&o, i+1)
	}
}

func hasPrefix(s, prefix []byte) bool {
	return len(s) >= len(prefix) && string(s[:len(prefix)]) == string(prefix)
}

func (s *scanner) array(start, levels int) (end int, index *node) {
	text, i := s.text, start+1
	if levels == 0 {
		return s.fail(errDepth), nil
	}
	if i < len(text) && text[i] == ']' {
		return i + 1, nil
	}
	o := s.open(start)
	for {
		item := i
		var sub *node
		i, sub = s.value(i, levels-1)
		s.child(&o, item, sub)
		if i = s.next(i, ']'); i >= len(text) || text[i] == ']' {
			return s.close(&o, i+1)
		}
	}
}

// next returns where the child after one that ends at i starts, or where the
// closing bracket of their container stands.
func (s *scanner) next(i int, closing byte) int {
	if i < len(s.text) && s.text[i] == closing {
		return i
	}
	if i+1 < len(s.text) && s.text[i] == ',' && s.text[i+1] != closing {
		return i + 1
	}
	return s.fail(errSyntax)
}

// ends reports whether no child starts at i. Unless the closing bracket stands there,
// and no comma before it, that is an error.
func (s *scanner) ends(i int, closing byte) bool {
	if i >= len(s.text) || s.text[i] == closing && s.text[i-1] == ',' {
		s.fail(errSyntax)
		return true
	}
	return s.text[i] == closing
}

// name reads the name of a member and the colon.
func (s *scanner) name(i int) int {
	if i >= len(s.text) || s.text[i] != '"' {
		return s.fail(errSyntax)
	}
	if i = s.string(i); i >= len(s.text) || s.text[i] != ':' {
		return s.fail(errSyntax)
	}
	return i + 1
}

// checkNames notes whether two of the names are the same.
func (s *scanner) checkNames(names shape) {
	hashes := make([]uint64, 0, 32)
	for _, n := range names {
		hashes = append(hashes, hashString(s.text[n.from:n.to-1]))
	}
	s.repeated = s.repeated || repeated(hashes)
}

func (s *scanner) literal(i int, word string) int {
	if len(s.text)-i < len(word) || string(s.text[i:i+len(word)]) != word {
		return s.fail(errSyntax)
	}
	return i + len(word)
}

// number reads a number (RFC 8259 §6). That something may not follow one is for
// the caller to find.
func (s *scanner) number(i int) int {
	text := s.text
	if text[i] == '-' {
		i++
	}
	if i < len(text) && text[i] == '0' {
		i++
	} else {
		i = s.digits(i)
	}
	if i < len(text) && text[i] == '.' {
		i = s.digits(i + 1)
	}
	if i < len(text) && text[i]|0x20 == 'e' {
		i++
		if i < len(text) && (text[i] == '+' || text[i] == '-') {
			i++
		}
		i = s.digits(i)
	}
	return i
}

func (s *scanner) digits(i int) int {
	start, text := i, s.text
	for i < len(text) && text[i]-'0' <= 9 {
		i++
	}
	if i == start {
		return s.fail(errSyntax)
	}
	return i
}

const (
	each uint64 = 0x0101010101010101 // 1 in each of eight bytes
	high        = each << 7          // the highest bit of each
)

// string reads a string (RFC 8259 §7), eight bytes at a time.
func (s *scanner) string(i int) int {
	text, start := s.text, i+1
	var seen uint64
	for i = start; len(text)-i >= 8; {
		w := binary.LittleEndian.Uint64(text[i : i+8])
		seen |= w
		// The lowest bit stands for the first quotation mark, backslash or control
		// character: only bytes after such a one can borrow.
		found := (((w ^ each*'"') - each) | ((w ^ each*'\\') - each) | (w - each*' ')) &^ w & high
		if found == 0 {
			i += 8
			continue
		}
		i += bits.TrailingZeros64(found) / 8
		if text[i] == '"' {
			return s.endString(start, i, seen)
		}
		i = s.escape(i)
	}
	for i < len(text) {
		switch c := text[i]; {
		case c == '"':
			return s.endString(start, i, seen)
		case c == '\\' || c < ' ':
			i = s.escape(i)
		default:
			seen |= uint64(c)
			i++
		}
	}
	return s.fail(errSyntax)
}

// endString is given all the bytes of text[start:end] united, or more.
func (s *scanner) endString(start, end int, seen uint64) int {
	if seen&high != 0 && !utf8.Valid(s.text[start:end]) {
		return s.fail(errUTF8)
	}
	return end + 1
}

func (s *scanner) escape(i int) int {
	text := s.text[i:]
	if len(text) < 2 || text[0] != '\\' {
		return s.fail(errSyntax)
	}
	switch text[1] {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		return i + 2
	case 'u':
		if len(text) < 6 || !isHex(text[2]) || !isHex(text[3]) || !isHex(text[4]) || !isHex(text[5]) {
			return s.fail(errSyntax)
		}
		return i + 6
	}
	return s.fail(errSyntax)
}

func isHex(c byte) bool { return c-'0' <= 9 || c|0x20-'a' <= 5 }
