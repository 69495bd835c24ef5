package jsondiff

import "testing"

func TestMatch(t *testing.T) {
	for _, c := range []struct {
		pattern, pointer string
		want             bool
	}{
		{"", "", true},
		{"", "/", false},
		{"/", "", false},
		{"/", "/", true},
		{"/a", "/a", true},
		{"/a", "/b", false},
		{"/a", "/a/b", false},
		{"/a/b", "/a", false},
		{"/a", "/ab", false},
		{"/*", "/a", true},
		{"/*", "/", true},
		{"/*", "/*", true},
		{"/*", "", false},
		{"/*", "/a/b", false},
		{"/a/*/c", "/a/0/c", true},
		{"/a/*/c", "/a/[id=7]/c", true},
		{"/a/*/c", "/a/0/d", false},
		{"/a*", "/ab", false},
		{"/a~1b", "/a~1b", true},
		{"/a~1b", "/a/b", false},
		{"/a", "/*", false},
		{"/[id=*]", "/[id=42]", true},
		{"/[id=*]/n", "/[id=a=b~1]/n", true},
		{"/[id=*]", "/[id=]", true},
		{"/[id=*]", "/[id=*]", true},
		{"/[id=*]", "/[pin=42]", false},
		{"/[id=*]", "/[id2=42]", false},
		{"/[id=*]", "/[id=42", false},
		{"/[id=*]", "/id=42]", false},
		{"/[id=*]", "/[id", false},
		{"/[id=*]", "/", false},
		{"/[id=*]", "/42", false},
		{"/[id=4]", "/[id=42]", false},
		{"/=*]", "/=1]", false},
	} {
		if got := Match(c.pattern, c.pointer); got != c.want {
			t.Errorf("%q for %q: %v", c.pattern, c.pointer, got)
		}
	}
}

func TestRebase(t *testing.T) {
	const no = "no"
	for _, c := range []struct{ pattern, pointer, want string }{
		{"", "", ""},
		{"/a/b", "", "/a/b"},
		{"/a/b", "/a", "/b"},
		{"/a/b", "/a/b", ""},
		{"/a/b", "/a/b/c", no},
		{"", "/a", no},
		{"/a/b", "/c", no},
		{"/a/b", "/a/c/d", no},
		{"/*/b/*", "/a", "/b/*"},
		{"/*/b/*", "/a/b/[id=1]", ""},
		{"/*", "/a/b", no},
	} {
		got, ok := Rebase(c.pattern, c.pointer)
		if !ok {
			got = no
		}
		if got != c.want {
			t.Errorf("%q in %q: %s, want %s", c.pattern, c.pointer, got, c.want)
		}
	}
}
