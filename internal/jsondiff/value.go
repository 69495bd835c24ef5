package jsondiff

import (
	"bytes"
	"hash/maphash"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"
)

// value is one value of a document, as a tree. The text behind it is valid and
// compact, so reading it needs no checks.
type value struct {
	text []byte
	kind kind
	hash uint64 // equal values have equal hashes
	*children
}

// children are what arrays and objects are made of. They stand apart, since most
// values have none.
type children struct {
	members []member
	items   []value
}

var noChildren = new(children)

type kind byte

const (
	scalar kind = iota // a number, true, false or null: equal if written alike
	text               // a string: equal if its characters are
	array
	object
)

// member is a named value of an object. Its name is unescaped; of members with
// the same name only the last is kept.
type member struct {
	name  string
	value value
}

// seed is drawn anew in each process, so that nobody can prepare documents whose
// values collide.
var seed = maphash.MakeSeed()

// parse reads the value that s begins with, and returns what follows it.
func parse(s []byte) (v value, rest []byte) {
	v.children = noChildren
	switch s[0] {
	case '{':
		v.children, v.kind, rest = new(children), object, s[1:]
		for rest[0] != '}' {
			if rest[0] == ',' {
				rest = rest[1:]
			}
			n := stringLen(rest)
			m := member{name: unescape(rest[:n])}
			m.value, rest = parse(rest[n+len(":"):])
			v.members = append(v.members, m)
		}
		rest = rest[1:]
		v.members = lastOfEachName(v.members)
	case '[':
		v.children, v.kind, rest = new(children), array, s[1:]
		for rest[0] != ']' {
			if rest[0] == ',' {
				rest = rest[1:]
			}
			var item value
			item, rest = parse(rest)
			v.items = append(v.items, item)
		}
		rest = rest[1:]
	case '"':
		v.kind, rest = text, s[stringLen(s):]
	default:
		n := 0
		for n < len(s) && s[n] != ',' && s[n] != ']' && s[n] != '}' {
			n++
		}
		v.kind, rest = scalar, s[n:]
	}
	v.text = s[:len(s)-len(rest)]
	v.hash = v.computeHash()
	return v, rest
}

// lastOfEachName drops every member that a later one of the same name overrides,
// as JavaScript and most other readers do (RFC 8259 §4).
func lastOfEachName(members []member) []member {
	last := make(map[string]int, len(members))
	for i, m := range members {
		last[m.name] = i
	}
	if len(last) == len(members) {
		return members
	}
	kept := members[:0]
	for i, m := range members {
		if last[m.name] == i {
			kept = append(kept, m)
		}
	}
	return kept
}

func (v *value) computeHash() uint64 {
	h := uint64(v.kind)
	switch v.kind {
	case scalar:
		h ^= maphash.Bytes(seed, v.text)
	case text:
		h ^= maphash.String(seed, unescape(v.text))
	case array:
		for i := range v.items {
			h = mix(h ^ v.items[i].hash)
		}
	case object:
		for i := range v.members { // a sum, since the order is of no account
			h += mix(maphash.String(seed, v.members[i].name) ^ mix(v.members[i].value.hash))
		}
	}
	return mix(h ^ uint64(v.kind)<<32)
}

// mix spreads a change of any bit over all of them (the finaliser of SplitMix64).
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

func equal(a, b *value) bool {
	if a.kind != b.kind || a.hash != b.hash {
		return false
	}
	if bytes.Equal(a.text, b.text) {
		return true
	}
	switch a.kind {
	case text:
		return unescape(a.text) == unescape(b.text)
	case array:
		if len(a.items) != len(b.items) {
			return false
		}
		for i := range a.items {
			if !equal(&a.items[i], &b.items[i]) {
				return false
			}
		}
		return true
	case object:
		if len(a.members) != len(b.members) {
			return false
		}
		find := b.finder()
		for i := range a.members {
			other := find(i, a.members[i].name)
			if other == nil || !equal(&a.members[i].value, other) {
				return false
			}
		}
		return true
	}
	return false // scalars are equal only if written alike
}

// member returns the member of that name, or nil.
func (v *value) member(name string) *value {
	for i := range v.members {
		if v.members[i].name == name {
			return &v.members[i].value
		}
	}
	return nil
}

// finder returns a function that finds members by name, fastest where the caller
// guesses the place.
func (v *value) finder() func(guess int, name string) *value {
	var index map[string]*value
	return func(guess int, name string) *value {
		if guess < len(v.members) && v.members[guess].name == name {
			return &v.members[guess].value
		}
		if index == nil {
			index = make(map[string]*value, len(v.members))
			for i := range v.members {
				index[v.members[i].name] = &v.members[i].value
			}
		}
		return index[name]
	}
}

// unescape returns the characters of a string literal. A surrogate without its
// half (RFC 8259 §8.2) has no UTF-8 form; it is encoded as if it had one, so that
// it stays distinct from every other character.
func unescape(literal []byte) string {
	s := literal[1 : len(literal)-1]
	if bytes.IndexByte(s, '\\') < 0 {
		return string(s)
	}
	out := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if s[i] != '\\' {
			out = append(out, s[i])
			continue
		}
		i++
		switch s[i] {
		case 'b':
			out = append(out, '\b')
		case 'f':
			out = append(out, '\f')
		case 'n':
			out = append(out, '\n')
		case 'r':
			out = append(out, '\r')
		case 't':
			out = append(out, '\t')
		case 'u':
			r := hex4(s[i+1:])
			i += 4
			if utf16.IsSurrogate(r) {
				if i+6 < len(s) && s[i+1] == '\\' && s[i+2] == 'u' {
					if pair := utf16.DecodeRune(r, hex4(s[i+3:])); pair != utf8.RuneError {
						out = utf8.AppendRune(out, pair)
						i += 6
						continue
					}
				}
				out = append(out, 0xe0|byte(r>>12), 0x80|byte(r>>6)&0x3f, 0x80|byte(r)&0x3f)
				continue
			}
			out = utf8.AppendRune(out, r)
		default: // a quotation mark, \ or /
			out = append(out, s[i])
		}
	}
	return string(out)
}

func hex4(s []byte) rune {
	n, err := strconv.ParseUint(string(s[:4]), 16, 16)
	if err != nil {
		panic("jsondiff: internal error: bad escape in a checked text")
	}
	return rune(n)
}
