package jsondiff

import (
	"math/rand/v2"
	"reflect"
	"testing"

	"github.com/pollsse/caddy-poll-sse/internal/oracle"
)

// checkMerge asks the oracle whether the merge patch is right, or whether there is none.
func checkMerge(t *testing.T, old, new string) (patch string, ok bool) {
	t.Helper()
	_, p, err := (&Differ{Merge: true}).Diff(document(t, old), []byte(new))
	if err != nil {
		t.Fatal(err)
	}
	before, _ := oracle.Value([]byte(old))
	want, err := oracle.Value([]byte(new))
	if err != nil {
		t.Fatal(err)
	}
	if p.Len() == 0 {
		if !reflect.DeepEqual(before, want) {
			t.Fatalf("%s → %s: no change", old, new)
		}
		return "", true
	}
	text, ok := p.Merge()
	if ok != mergeable(before, want, true) {
		t.Fatalf("%s → %s: said %v to %s", old, new, ok, p.Bytes())
	}
	if !ok {
		return "", false
	}
	change, err := oracle.Value(text)
	if err != nil {
		t.Fatalf("%s → %s: merge patch %s: %v", old, new, text, err)
	}
	if got := oracle.Merge(before, change); !reflect.DeepEqual(got, want) {
		t.Fatalf("%s → %s: merge patch %s makes %v", old, new, text, got)
	}
	return string(text), true
}

// mergeable says by other means whether RFC 7396 has a patch.
func mergeable(old, new any, root bool) bool {
	if reflect.DeepEqual(old, new) {
		return true
	}
	members, ok := new.(map[string]any)
	if !ok {
		return root || new != nil
	}
	before, _ := old.(map[string]any)
	for name, value := range members {
		if was, ok := before[name]; ok && reflect.DeepEqual(was, value) {
			continue
		}
		if !mergeable(before[name], value, false) || value == nil {
			return false
		}
	}
	return true
}

func TestMergePatches(t *testing.T) {
	for _, c := range []struct{ old, new, patch string }{
		{`{"a":1,"b":{"c":2,"d":3}}`, `{"a":1,"b":{"c":9,"d":3}}`, `{"b":{"c":9}}`},
		{`{"a":{"b":{"c":1}},"d":1,"e":{"f":1,"g":1}}`, `{"a":{"b":{"c":2}},"d":2,"e":{"f":1}}`, `{"a":{"b":{"c":2}},"d":2,"e":{"g":null}}`},
		{`{"a/b":{"~":1,"\"":1}}`, `{"a/b":{"~":2,"\"":2}}`, `{"a/b":{"~":2,"\"":2}}`},
		{`{"a":[1,2,3]}`, `{"a":[1,null,3]}`, `{"a":[1,null,3]}`},
		{`{"a":1}`, `{"a":{}}`, `{"a":{}}`},
		{`{"":{"":1}}`, `{"":{"":2}}`, `{"":{"":2}}`},
		{`{"a":1}`, `[1]`, `[1]`},
		{`{"a":1}`, `null`, `null`},
		{`[1]`, `{"a":1}`, `{"a":1}`},
		{`{"a":1}`, `{"a":null}`, ``},
		{`{}`, `{"a":{"x":null,"y":1}}`, ``},
		{`[1]`, `{"a":null}`, ``},
		{`{"a":null,"b":1}`, `{"a":null,"b":2}`, `{"b":2}`},
		{`{}`, `{"a":[{"x":null}]}`, `{"a":[{"x":null}]}`},
	} {
		if patch, ok := checkMerge(t, c.old, c.new); patch != c.patch || ok != (c.patch != "") {
			t.Errorf("%s → %s: %s, want %s", c.old, c.new, patch, c.patch)
		}
	}
}

func TestRandomMergePatches(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := texts{rand.New(rand.NewPCG(seed, 0))}
	said := 0
	for range 20_000 {
		if _, ok := checkMerge(t, r.value(3), r.value(3)); ok {
			said++
		}
	}
	if said < 1000 {
		t.Errorf("only %d merge patches", said)
	}
}
