package jsondiff

import (
	"regexp"
	"strings"
)

// pointerForm is the grammar of RFC 6901 §3.
var pointerForm = regexp.MustCompile(`^(/([^~/]|~[01])*)*$`)

// ValidPointer reports whether s is a JSON Pointer.
func ValidPointer(s string) bool { return pointerForm.MatchString(s) }

// splitPointer returns the reference tokens of a pointer, unescaped (RFC 6901 §4).
func splitPointer(s string) []string {
	if s == "" {
		return nil
	}
	tokens := strings.Split(s[1:], "/")
	for i, t := range tokens {
		tokens[i] = strings.ReplaceAll(strings.ReplaceAll(t, "~1", "/"), "~0", "~")
	}
	return tokens
}
