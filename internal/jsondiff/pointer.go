package jsondiff

import (
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"
)

// pointer is a JSON Pointer (RFC 6901), escaped as in a JSON string.
type pointer []byte

// name returns the pointer to a member, given the characters of its name. It shares
// memory with p, as far as there is room.
func (p pointer) name(name []byte) pointer {
	const hex = "0123456789abcdef"
	p = append(p, '/')
	plain := 0 // name[plain:i] is as it is
	for i := 0; i < len(name); i++ {
		c := name[i]
		if c >= ' ' && c != '~' && c != '/' && c != '"' && c != '\\' && c != 0xed {
			continue
		}
		p = append(p, name[plain:i]...)
		plain = i + 1
		switch {
		case c == '~': // RFC 6901 §3
			p = append(p, "~0"...)
		case c == '/':
			p = append(p, "~1"...)
		case c == '"', c == '\\':
			p = append(p, '\\', c)
		case c < ' ':
			p = append(p, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
		case c == 0xed && i+2 < len(name) && !utf8.Valid(name[i:i+3]):
			// What unescape made of a surrogate without its half.
			r := uint16(c&15)<<12 | uint16(name[i+1]&0x3f)<<6 | uint16(name[i+2]&0x3f)
			p = append(p, '\\', 'u', hex[r>>12], hex[r>>8&15], hex[r>>4&15], hex[r&15])
			i += 2
			plain = i + 1
		default:
			p = append(p, c)
		}
	}
	return append(p, name[plain:]...)
}

// item returns the pointer to an item. It shares memory as name does.
func (p pointer) item(i int) pointer {
	return strconv.AppendInt(append(p, '/'), int64(i), 10)
}

// pointerForm is the grammar of RFC 6901 §3.
var pointerForm = regexp.MustCompile(`^(/([^~/]|~[01])*)*$`)

// ValidPointer reports whether s is a JSON Pointer.
func ValidPointer(s string) bool { return pointerForm.MatchString(s) }

// tokens returns the reference tokens of s, a [ValidPointer].
func tokens(s string) []string {
	if s == "" {
		return nil
	}
	all := strings.Split(s[1:], "/")
	for i, token := range all {
		all[i] = strings.ReplaceAll(strings.ReplaceAll(token, "~1", "/"), "~0", "~") // RFC 6901 §4
	}
	return all
}

// newPointer returns the pointer that s, a [ValidPointer], spells.
func newPointer(s string) pointer {
	var p pointer
	for _, token := range tokens(s) {
		p = p.name([]byte(token))
	}
	return p
}

// Match reports whether a pointer is one of those that pattern stands for: a pointer
// itself, in which the token * stands for any, and [id=*] for any such as [id=42] (see
// [Document.Find]).
func Match(pattern, pointer string) bool {
	above, below, ok := matchBeginning(pattern, pointer)
	return ok && above == "" && below == ""
}

// Rebase returns what pattern stands for in the value that pointer leads to, as a
// pattern for that value; ok is false where it stands for nothing in there.
func Rebase(pattern, pointer string) (rest string, ok bool) {
	rest, below, ok := matchBeginning(pattern, pointer)
	return rest, ok && below == ""
}

// matchBeginning takes as many tokens off both as the shorter one has, and reports
// whether these match.
func matchBeginning(pattern, pointer string) (restOfPattern, restOfPointer string, ok bool) {
	for pattern != "" && pointer != "" {
		var a, b string
		a, pattern = cutToken(pattern)
		if b, pointer = cutToken(pointer); !matchToken(a, b) {
			return "", "", false
		}
	}
	return pattern, pointer, true
}

func matchToken(pattern, token string) bool {
	if pattern == token || pattern == "*" {
		return true
	}
	name, ok := strings.CutSuffix(pattern, "=*]")
	return ok && name != "" && name[0] == '[' && strings.HasPrefix(token, name+"=") && token[len(token)-1] == ']'
}

func cutToken(pointer string) (token, rest string) {
	if i := strings.IndexByte(pointer[1:], '/'); i >= 0 {
		return pointer[1 : 1+i], pointer[1+i:]
	}
	return pointer[1:], ""
}
