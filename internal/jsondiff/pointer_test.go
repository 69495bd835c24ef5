package jsondiff

import (
	"bytes"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/pollsse/caddy-poll-sse/internal/oracle"
)

// matches are patterns, pointers, and whether the one stands for the other.
var matches = []struct {
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
}

func TestMatch(t *testing.T) {
	for _, c := range matches {
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

func FuzzPointer(f *testing.F) {
	if len(matches) == 0 || len(findable) == 0 {
		f.Fatal("no seeds")
	}
	for _, m := range matches {
		f.Add([]byte(findText), m.pattern, m.pointer)
	}
	for pointer := range findable {
		f.Add([]byte(findText), "/*/[id=1]", pointer)
		f.Add([]byte(strings.ReplaceAll(findText, ":", " : ")), pointer, pointer)
	}
	f.Fuzz(func(t *testing.T, text []byte, pattern, pointer string) {
		for _, p := range []string{pattern, pointer} {
			if ValidPointer(p) != validByBytes(p) {
				t.Fatalf("ValidPointer(%q): not %v", p, validByBytes(p))
			}
			if !ValidPointer(p) {
				return
			}
			survives(t, p)
		}
		agree(t, pattern, pointer)
		if valid(text) {
			denselyIndexed(func() { found(t, document(t, string(text)), pattern, pointer) })
		}
	})
}

// validByBytes says by other means what a pointer is (RFC 6901 §3).
func validByBytes(s string) bool {
	for i := range len(s) {
		if s[i] == '~' && (i+1 == len(s) || s[i+1] != '0' && s[i+1] != '1') {
			return false
		}
	}
	return s == "" || s[0] == '/'
}

// survives takes a pointer apart and puts it together again, as it is and as JSON.
func survives(t *testing.T, p string) {
	t.Helper()
	again := ""
	for _, token := range tokens(p) {
		again += "/" + strings.NewReplacer("~", "~0", "/", "~1").Replace(token)
	}
	if again != p {
		t.Fatalf("%q becomes %q", p, again)
	}
	if !utf8.ValidString(p) {
		return
	}
	literal := `"` + string(newPointer(p)) + `"`
	if said, err := oracle.Value([]byte(literal)); err != nil || said != p {
		t.Fatalf("%q is spelled %s, which says %q (%v)", p, literal, said, err)
	}
}

// agree compares what a pattern stands for with a plainer way to say so, and what is
// left of the pattern inside of each part of the pointer with the whole.
func agree(t *testing.T, pattern, pointer string) {
	t.Helper()
	match := Match(pattern, pointer)
	if match != matchByTokens(pattern, pointer) {
		t.Fatalf("%q for %q: %v", pattern, pointer, match)
	}
	for i := range len(pointer) + 1 {
		if i < len(pointer) && pointer[i] != '/' {
			continue
		}
		rest, ok := Rebase(pattern, pointer[:i])
		if got := ok && Match(rest, pointer[i:]); got != match {
			t.Fatalf("%q for %q: %v, but by way of %q: %v", pattern, pointer, match, pointer[:i], got)
		}
	}
}

var anyItem = regexp.MustCompile(`^\[(?s:.*)=\*\]$`)

func matchByTokens(pattern, pointer string) bool {
	patterns, pointers := strings.Split(pattern, "/"), strings.Split(pointer, "/")
	if len(patterns) != len(pointers) {
		return false
	}
	for i, p := range patterns {
		beginning, end := p, p
		if anyItem.MatchString(p) {
			beginning, end = strings.TrimSuffix(p, "*]"), "]"
		}
		is := pointers[i]
		if p != "*" && p != is && (beginning == end || !strings.HasPrefix(is, beginning) || !strings.HasSuffix(is, end)) {
			return false
		}
	}
	return true
}

// found looks for a pointer in a document, and for what is left of the document
// without what stands there.
func found(t *testing.T, d *Document, pattern, pointer string) {
	t.Helper()
	value, ok := d.Find(pointer)
	if ok && !bytes.Equal(document(t, string(value)).Bytes(), value) {
		t.Fatalf("%q in %q is no value: %q", pointer, d.Bytes(), value)
	}
	for i := range pointer { // a way in two parts leads to the same
		if pointer[i] != '/' {
			continue
		}
		half, there := d.Find(pointer[:i])
		var again []byte
		if there {
			again, there = document(t, string(half)).Find(pointer[i:])
		}
		if there != ok || !bytes.Equal(again, value) {
			t.Fatalf("%q in %q is %q, but by way of %q %q", pointer, d.Bytes(), value, pointer[:i], again)
		}
	}
	less := d.Without([]string{pattern})
	if rest := document(t, string(less)).Bytes(); !bytes.Equal(rest, less) {
		t.Fatalf("%q without %q is no document: %q", d.Bytes(), pattern, less)
	}
	if ok && Match(pattern, pointer) && !strings.Contains(pattern, "=*]") && pointer != "" && len(less) >= len(d.Bytes()) {
		t.Fatalf("%q without %q still has %q", d.Bytes(), pattern, pointer)
	}
	if bytes.Contains(bytes.ToLower(d.Bytes()), []byte(`\ud`)) {
		return // the oracle cannot tell lone surrogates apart
	}
	root, err := oracle.Value(d.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	want, there := oracle.Find(root, pointer)
	if ok != there || ok && !reflect.DeepEqual(valueOf(t, value), want) {
		t.Fatalf("%q in %q: %q, want %v, %v", pointer, d.Bytes(), value, want, there)
	}
	for _, patterns := range [][]string{{pattern}, {pattern, pointer}} {
		if got := valueOf(t, d.Without(patterns)); !reflect.DeepEqual(got, oracle.Without(root, patterns...)) {
			t.Fatalf("%q without %q: %v", d.Bytes(), patterns, got)
		}
	}
}

func valueOf(t *testing.T, text []byte) any {
	t.Helper()
	v, err := oracle.Value(text)
	if err != nil {
		t.Fatalf("%q: %v", text, err)
	}
	return v
}
