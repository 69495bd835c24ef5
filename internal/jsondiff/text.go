package jsondiff

import (
	"bytes"
	"encoding/binary"
	"hash/maphash"
	"math/bits"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"
)

// The functions in this file read compact JSON text that a [scanner] has checked.

// skipString returns the end of the string at i. In other text than JSON that is the
// end of the text, if need be.
func skipString(text []byte, i int) int {
	for i++; len(text)-i >= 8; {
		w := binary.LittleEndian.Uint64(text[i : i+8])
		found := (((w ^ each*'"') - each) | ((w ^ each*'\\') - each)) &^ w & high
		if found == 0 {
			i += 8
			continue
		}
		i += bits.TrailingZeros64(found) / 8
		if text[i] == '"' {
			return i + 1
		}
		i += 2
	}
	for i < len(text) && text[i] != '"' {
		if text[i] == '\\' {
			i++
		}
		i++
	}
	return min(i+1, len(text))
}

// skip returns the end of the value at i.
func skip(text []byte, i int) int { return skipTo(text, i, len(text)) }

// skipTo returns the end of the value at i, or some offset behind limit if the value
// does not end before that.
func skipTo(text []byte, i, limit int) int {
	switch text[i] {
	case '"':
		return skipString(text, i)
	case '{', '[':
	default:
		for i < len(text) && text[i] != ',' && text[i] != '}' && text[i] != ']' {
			i++
		}
		return i
	}
	for levels := 0; i <= limit; i++ {
		for turn[text[i]] == 0 {
			i++
		}
		switch text[i] {
		case '"':
			i = skipString(text, i) - 1
		case '{', '[':
			levels++
		default:
			if levels--; levels == 0 {
				return i + 1
			}
		}
	}
	return i
}

// turn is 1 for the bytes that skipTo has to look at.
var turn = [256]byte{'"': 1, '{': 1, '[': 1, '}': 1, ']': 1}

// seed is drawn anew in each process, so that nobody can prepare documents whose
// values collide.
var seed = maphash.MakeSeed()

// hashString returns the same for strings of the same characters.
func hashString(literal []byte) uint64 {
	if bytes.IndexByte(literal, '\\') >= 0 {
		return maphash.Bytes(seed, unescape(literal))
	}
	return maphash.Bytes(seed, literal[1:len(literal)-1])
}

// equalStrings compares the characters of two strings.
func equalStrings(a, b []byte) bool {
	if bytes.Equal(a, b) {
		return true
	}
	if bytes.IndexByte(a, '\\') < 0 && bytes.IndexByte(b, '\\') < 0 {
		return false
	}
	return bytes.Equal(unescape(a), unescape(b))
}

// repeated reports whether two of the hashes are equal.
func repeated(hashes []uint64) bool {
	if len(hashes) <= 16 {
		var seen [16]uint64 // a filter of 1,024 bits
		clash := false
		for _, h := range hashes {
			word, bit := &seen[h%16], uint64(1)<<(h>>58)
			clash = clash || *word&bit != 0
			*word |= bit
		}
		if !clash {
			return false
		}
		for i, h := range hashes {
			for _, g := range hashes[:i] {
				if g == h {
					return true
				}
			}
		}
		return false
	}
	size := 2 << bits.Len(uint(len(hashes)))
	table := make([]uint64, size) // open addressing; 0 is free
	for _, h := range hashes {
		h |= 1
		at := h >> 1 & uint64(size-1)
		for table[at] != 0 {
			if table[at] == h {
				return true
			}
			at = (at + 1) & uint64(size-1)
		}
		table[at] = h
	}
	return false
}

// unescape returns the characters of a string. A surrogate without its
// half (RFC 8259 §8.2) has no UTF-8 form; it is encoded as if it had one, so that
// it stays distinct from every other character.
func unescape(literal []byte) []byte {
	s := literal[1 : len(literal)-1]
	if bytes.IndexByte(s, '\\') < 0 {
		return s
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
	return out
}

func hex4(s []byte) rune {
	n, err := strconv.ParseUint(string(s[:4]), 16, 16)
	if err != nil {
		panic("jsondiff: internal error: bad escape in a checked text")
	}
	return rune(n)
}

// endOf returns the end of the value at i, which has that index, or some offset
// behind limit if the value does not end before.
func endOf(text []byte, i int, index *node, limit int) int {
	if index == nil || index == noIndex {
		return skipTo(text, i, limit)
	}
	return i + int(index.size)
}

// equalScalars compares values that are not both objects or both arrays.
func equalScalars(a, b []byte) bool {
	return bytes.Equal(a, b) || a[0] == '"' && b[0] == '"' && equalStrings(a, b)
}
