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
	patch := jsondiff.Diff(parse(t, before), parse(t, after), nil).Bytes()
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
	p, err := jsonpatch.DecodePatch(patch)
	if err != nil {
		t.Fatal(err)
	}
	out, err := p.Apply([]byte(before))
	if err != nil {
		t.Fatalf("%s → %s: patch %s: %v", before, after, patch, err)
	}
	if got, err := oracle.Value(out); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%s → %s: patch %s makes %s (%v) by the library", before, after, patch, out, err)
	}
	return patch
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
		patch, changed := diff(parse(t, c.old), parse(t, c.new), nil)
		if changed == c.same || (patch == nil) != (c.whole || c.same) {
			t.Errorf("%s: changed %v, patch %.200s", c.name, changed, patch)
		}
		if patch != nil && !json.Valid(patch) {
			t.Errorf("%s: patch %s", c.name, patch)
		}
	}
}
