package pollsse

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"

	jsonpatch "github.com/evanphx/json-patch/v5"

	"github.com/pollsse/caddy-poll-sse/internal/jsondiff"
	"github.com/pollsse/caddy-poll-sse/internal/oracle"
)

func parse(t testing.TB, text string) *jsondiff.Document {
	t.Helper()
	d, err := jsondiff.Parse([]byte(text))
	if err != nil {
		t.Fatalf("Parse(%.100q): %v", text, err)
	}
	return d
}

// Every patch in both directions is applied by the oracle and, where it can, by an
// independent library.
func TestDiffCases(t *testing.T) {
	for name, files := range archives(t, "diff") {
		t.Run(name, func(t *testing.T) {
			before, after := strings.TrimSpace(files["before"]), strings.TrimSpace(files["after"])
			applied(t, after, before)
			got := applied(t, before, after)
			if want, ok := files["patch"]; ok && string(got) != strings.TrimSpace(want) {
				t.Errorf("patch %s, want %s", got, want)
			}
		})
	}
}

// applied returns the patch between two texts, having proved it.
func applied(t *testing.T, before, after string) []byte {
	t.Helper()
	_, p, err := new(jsondiff.Differ).Diff(parse(t, before), []byte(after))
	if err != nil {
		t.Fatal(err)
	}
	patch := p.Bytes()
	doc, err := oracle.Value([]byte(before))
	if err != nil {
		t.Fatal(err)
	}
	want, err := oracle.Value([]byte(after))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := oracle.Apply(doc, patch); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%s → %s: patch %s makes %v (%v)", before, after, patch, got, err)
	}

	// The library refuses scalars at the root and takes no empty name for one.
	if !strings.ContainsAny(before[:1], "{[") || bytes.Contains(patch, []byte(`"path":""`)) || strings.Contains(before+after, `"":`) {
		return patch
	}
	decoded, err := jsonpatch.DecodePatch(patch)
	if err != nil {
		t.Fatal(err)
	}
	out, err := decoded.Apply([]byte(before))
	if err != nil {
		t.Fatalf("%s → %s: patch %s: %v", before, after, patch, err)
	}
	if got, err := oracle.Value(out); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%s → %s: patch %s makes %s (%v) by the library", before, after, patch, out, err)
	}
	return patch
}

// usual compares as for clients that wish nothing special.
func usual() *jsondiff.Differ {
	d := new(Handler).differ(wish{format: formatPatch})
	return &d
}

func TestWholeWhereThatIsLess(t *testing.T) {
	list := func(n, changed int) string {
		items := make([]string, n)
		for i := range items {
			items[i] = fmt.Sprintf(`{"id":%d,"v":%t,"f":"filler filler"}`, i, i < changed)
		}
		return "[" + strings.Join(items, ",") + "]"
	}
	for _, c := range []struct {
		name        string
		old, new    string
		whole, same bool
	}{
		{"nothing changed", list(100, 0), " " + list(100, 0), false, true},
		{"a little changed", list(100, 0), list(100, 5), false, false},
		{"64 operations", list(1000, 0), list(1000, 64), false, false},
		{"more operations than a browser likes", list(1000, 0), list(1000, 65), true, false},
		{"more than half", list(100, 0), list(100, 64), true, false},
		{"tiny", `{"n":1}`, `{"n":2}`, true, false},
	} {
		document, patch, changed, err := diff(usual(), parse(t, c.old), []byte(c.new))
		if err != nil || string(document.Bytes()) != strings.TrimSpace(c.new) {
			t.Errorf("%s: document %.100s, %v", c.name, document.Bytes(), err)
		}
		if changed == c.same || (patch == nil) != (c.whole || c.same) {
			t.Errorf("%s: changed %v, patch %.200s", c.name, changed, patch)
		}
		if patch != nil && !json.Valid(patch) {
			t.Errorf("%s: patch %s", c.name, patch)
		}
	}
}

func TestWorthwhile(t *testing.T) {
	for _, c := range []struct {
		operations, bytes, size int
		want                    bool
	}{
		{0, 0, 0, true}, {1, 50, 100, true}, {1, 51, 100, false}, {1, 50, 101, true},
		{64, 1, 1000, true}, {65, 1, 1000, false}, {64, 1, 96_000, true}, {65, 1, 97_499, false}, {65, 1, 97_500, true},
		{1000, 500_000, 1_500_000, true}, {1001, 500_000, 1_500_000, false}, {1000, 750_001, 1_500_000, false},
	} {
		if got := worthwhile(c.operations, c.bytes, c.size); got != c.want {
			t.Errorf("%d operations, %d bytes of %d: %v", c.operations, c.bytes, c.size, got)
		}
	}
}

func TestDiffUsesKeys(t *testing.T) {
	item := func(id, code, n int) string {
		return fmt.Sprintf(`{"id":%d,"code":%d,"f":{"a":"%0500d","n":%d}}`, id, code, code, n)
	}
	old := "[" + item(1, 1, 0) + "," + item(2, 2, 0) + "," + item(3, 3, 0) + "]"
	new := "[" + item(8, 2, 1) + "," + item(9, 3, 1) + "]"
	d := (&Handler{Key: []arrayKey{{Pointer: "/*/items", Member: "code"}}}).differ(wish{pointer: "/a/items"})
	_, patch, changed, err := diff(&d, parse(t, old), []byte(new))
	if err != nil || !changed || !strings.HasPrefix(string(patch), `[{"op":"remove","path":"/0"},`) {
		t.Errorf("%s, %v, %v", patch, changed, err)
	}
}

func TestDiffOfNoDocument(t *testing.T) {
	document, patch, changed, err := diff(usual(), nil, []byte(" [1] "))
	if err != nil || patch != nil || !changed || string(document.Bytes()) != "[1]" {
		t.Errorf("%s, %s, %v, %v", document.Bytes(), patch, changed, err)
	}
	for _, old := range []*jsondiff.Document{nil, parse(t, "[1]")} {
		if document, patch, changed, err := diff(usual(), old, []byte("[1")); err == nil || document != nil || patch != nil || changed {
			t.Errorf("%v, %s, %v, %v", document, patch, changed, err)
		}
	}
}

// A merge patch is sent only where it says the same and is smaller than the document.
func TestMergePatches(t *testing.T) {
	d := new(Handler).differ(wish{format: formatMerge})
	many := func(n, v int) string { // of which so many members are v
		members := make([]string, 100)
		for i := range members {
			members[i] = fmt.Sprintf(`"m%02d":%d`, i, 1000)
			if i < n {
				members[i] = fmt.Sprintf(`"m%02d":%d`, i, v)
			}
		}
		return "{" + strings.Join(members, ",") + "}"
	}
	for _, c := range []struct{ name, old, new, want string }{
		{"a member", `{"a":1,"b":2,"c":"filler"}`, `{"a":1,"b":3,"c":"filler"}`, `{"b":3}`},
		{"removed, added and inside", `{"a":1,"b":{"c":1,"d":2},"f":"filler filler"}`, `{"b":{"c":1,"d":3},"e":4,"f":"filler filler"}`, `{"b":{"d":3},"a":null,"e":4}`},
		{"an array", `{"a":[1,2],"c":"filler"}`, `{"a":[1,2,null],"c":"filler"}`, `{"a":[1,2,null]}`},
		{"null is added", `{"a":1,"c":"filler filler"}`, `{"a":1,"b":null,"c":"filler filler"}`, ""},
		{"null inside what is added", `{"a":1,"c":"filler filler"}`, `{"a":{"x":{"y":null}},"c":"filler filler"}`, ""},
		{"null stays", `{"a":1,"b":null,"c":"filler"}`, `{"a":2,"b":null,"c":"filler"}`, `{"a":2}`},
		{"the root is an array", `[1,2,3,4,5,6,7,8,9]`, `[1,2,3,4,5,6,7,8,0]`, ""},
		{"the root becomes an object", `null`, `{"a":1}`, ""},
		{"as large as the document", `{"a":1}`, `{"a":2}`, ""},
		{"almost all members", many(0, 1), many(99, 1), many(99, 1)[:len(many(99, 1))-len(`,"m99":1000}`)] + "}"},
		{"all members", many(0, 1), many(100, 1), ""},
		{"all members become null", many(0, 1), `{}`, ""},
	} {
		document, patch, changed, err := diff(&d, parse(t, c.old), []byte(c.new))
		if err != nil || !changed || string(document.Bytes()) != c.new {
			t.Fatalf("%s: %s, changed %v, %v", c.name, document.Bytes(), changed, err)
		}
		if patch == nil != (c.want == "") {
			t.Errorf("%s: %s, want %s", c.name, patch, c.want)
			continue
		}
		if patch == nil {
			continue
		}
		values := make([]any, 4)
		for i, text := range []string{c.old, c.new, string(patch), c.want} {
			if values[i], err = oracle.Value([]byte(text)); err != nil {
				t.Fatal(err)
			}
		}
		if !reflect.DeepEqual(oracle.Merge(values[0], values[2]), values[1]) || !reflect.DeepEqual(values[2], values[3]) {
			t.Errorf("%s: %s, want %s", c.name, patch, c.want)
		}
	}
}

// The key of an array is no key of what is in it.
func TestKeysOfOuterArrays(t *testing.T) {
	h := &Handler{Key: []arrayKey{{Pointer: "/a", Member: "x"}, {Pointer: "/a/*", Member: "y"}, {Pointer: "/a/*/b", Member: "z"}}}
	if keys := h.differ(wish{pointer: "/a/0"}).Keys; fmt.Sprint(keys) != "[{ y} {/b z}]" {
		t.Errorf("%q", keys)
	}
}

func TestMergeable(t *testing.T) {
	if !mergeable(1000, 800, 100) || mergeable(1, 801, 100) {
		t.Error("operations of eight times the document's size are the limit")
	}
}
