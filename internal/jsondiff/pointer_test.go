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
	} {
		if got := Match(c.pattern, c.pointer); got != c.want {
			t.Errorf("%q for %q: %v", c.pattern, c.pointer, got)
		}
	}
}

func TestRebase(t *testing.T) {
	const no = "no"
	for _, c := range []struct{ pattern, pointer, want, outer string }{
		{"", "", "", ""},
		{"/a/b", "", "/a/b", "/a/b"},
		{"/a/b", "/a", "/b", "/b"},
		{"/a/b", "/a/b", "", ""},
		{"/a/b", "/a/b/c", no, ""},
		{"", "/a", no, ""},
		{"/a/b", "/c", no, no},
		{"/a/b", "/a/c/d", no, no},
		{"/*/b/*", "/a", "/b/*", "/b/*"},
		{"/*/b/*", "/a/b/[id=1]", "", ""},
		{"/*", "/a/b", no, ""},
	} {
		for outer, want := range map[bool]string{false: c.want, true: c.outer} {
			got, ok := Rebase(c.pattern, c.pointer, outer)
			if !ok {
				got = no
			}
			if got != want {
				t.Errorf("%q in %q, outer %v: %s, want %s", c.pattern, c.pointer, outer, got, want)
			}
		}
	}
}
