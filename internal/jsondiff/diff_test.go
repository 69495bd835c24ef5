package jsondiff

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/pollsse/caddy-poll-sse/internal/oracle"
)

func document(t testing.TB, text string) *Document {
	t.Helper()
	d, err := Parse([]byte(text))
	if err != nil {
		t.Fatalf("Parse(%.100q): %v", text, err)
	}
	return d
}

// check compares two texts and asks the oracle whether the patch is right.
func check(t testing.TB, old, new string, keys ...Key) *Patch {
	t.Helper()
	patch := Diff(document(t, old), document(t, new), keys)
	before, err := oracle.Value([]byte(old))
	if err != nil {
		t.Fatal(err)
	}
	want, err := oracle.Value([]byte(new))
	if err != nil {
		t.Fatal(err)
	}
	got, err := oracle.Apply(before, patch.Bytes())
	if err != nil {
		t.Fatalf("applying %s\nto %s\nfor %s: %v", patch.Bytes(), old, new, err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Fatalf("patch %s\nof %s\nmakes %v\nwant %s", patch.Bytes(), old, got, new)
	}
	if n := bytes.Count(patch.Bytes(), []byte(`"op":`)); patch.Len() > n {
		t.Fatalf("patch says %d operations, has %d", patch.Len(), n)
	}
	if i := bytes.IndexAny(patch.Bytes(), "\r\n"); i >= 0 {
		t.Fatalf("patch %s has a line break", patch.Bytes())
	}
	return patch
}

func TestEqualDocumentsHaveAnEmptyPatch(t *testing.T) {
	for _, pair := range [][2]string{
		{`{"a":1,"b":[1,2]}`, ` { "b" : [ 1 , 2 ] , "a" : 1 } `},
		{`"a\u0062\/"`, `"ab/"`},
		{`{"\u0061":1}`, `{"a":1}`},
		{`{"a":1,"a":2}`, `{"a":2}`},
		{`{"a":1,"a":2}`, `{"a":9,"a":2}`},
		{`"\ud83d\ude00"`, `"😀"`},
		{`[]`, "[\n]"},
	} {
		if p := check(t, pair[0], pair[1]); p.Len() != 0 {
			t.Errorf("%s → %s: %s", pair[0], pair[1], p.Bytes())
		}
	}
}

// Strings that encoding/json cannot tell apart, so the oracle cannot either.
func TestLoneSurrogatesAreDistinct(t *testing.T) {
	for _, c := range [][3]string{
		{`"\ud800"`, `"\ud801"`, `[{"op":"replace","path":"","value":"\ud801"}]`},
		{`{"\ud800":1,"x":[0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0]}`, `{"\ud800":2,"x":[0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0]}`, `[{"op":"replace","path":"/\ud800","value":2}]`},
		{`"\ud800\ud800\udc00"`, `"\ud800𐀀"`, `[]`},
	} {
		if got := Diff(document(t, c[0]), document(t, c[1]), nil).Bytes(); string(got) != c[2] {
			t.Errorf("%s → %s: %s, want %s", c[0], c[1], got, c[2])
		}
	}
}

func list(n int, item func(i int) string) string {
	items := make([]string, 0, n)
	for i := range n {
		if s := item(i); s != "" {
			items = append(items, s)
		}
	}
	return "[" + strings.Join(items, ",") + "]"
}

func TestListOf2000(t *testing.T) {
	for _, kind := range []struct {
		name string
		item func(i int) string
	}{
		{"id", func(i int) string { return fmt.Sprintf(`{"id":%d,"name":"item %d","n":7}`, i, i) }},
		{"no id", func(i int) string { return fmt.Sprintf(`{"name":"item %d","n":7}`, i) }},
		{"scalars", func(i int) string { return fmt.Sprintf(`"%d"`, i) }},
		{"repeated scalars", func(i int) string { return strconv.Itoa(i % 3) }},
	} {
		old := list(2000, kind.item)
		head := list(2001, func(i int) string {
			if i == 0 {
				return kind.item(2001)
			}
			return kind.item(i - 1)
		})
		gone := list(2000, func(i int) string {
			if i == 1000 {
				return ""
			}
			return kind.item(i)
		})
		for _, c := range []struct{ change, new, op string }{{"insert at head", head, "add"}, {"delete", gone, "remove"}} {
			patch := check(t, old, c.new)
			if patch.Len() != 1 || !bytes.Contains(patch.Bytes(), []byte(`"op":"`+c.op+`"`)) {
				t.Errorf("%s, %s: %.300s", kind.name, c.change, patch.Bytes())
			}
		}
	}
}

func TestKeysTellItemsApart(t *testing.T) {
	const filler = `"filler filler filler filler filler filler filler filler"`
	item := func(code string, n int) string { return fmt.Sprintf(`{"code":%q,"n":%d,"f":%s}`, code, n, filler) }
	old := `{"x":[` + item("a", 1) + "," + item("b", 1) + "," + item("c", 1) + `]}`
	new := `{"x":[` + item("d", 9) + "," + item("a", 2) + "," + item("b", 3) + "," + item("c", 4) + `]}`
	with := check(t, old, new, Key{"/x", "code"})
	if with.Len() != 4 {
		t.Errorf("with a key: %s", with.Bytes())
	}
	if without := check(t, old, new); len(without.Bytes()) <= len(with.Bytes()) {
		t.Errorf("the key makes no difference: %s", without.Bytes())
	}
	// A key that two items share or one lacks is none.
	check(t, `[{"id":1},{"id":1}]`, `[{"id":1},{"id":2},{"id":1}]`)
	check(t, `[{"id":1},{}]`, `[{},{"id":1}]`)
	check(t, `[{"id":1,"v":1},{"id":"1","v":2}]`, `[{"id":"1","v":1},{"id":1,"v":2}]`)
}

func TestKeyPointersAreUnescaped(t *testing.T) {
	item := func(k, v int) string { return fmt.Sprintf(`{"k":%d,"v":%d,"f":"filler filler filler filler"}`, k, v) }
	old := `{"a/b":[` + item(1, 1) + "," + item(2, 1) + "," + item(3, 1) + `]}`
	new := `{"a/b":[` + item(2, 2) + "," + item(3, 2) + `]}`
	if p := check(t, old, new, Key{"/a~1b", "k"}); p.Len() != 3 {
		t.Errorf("%s", p.Bytes())
	}
}

// Whatever the documents, a patch is not much longer than the new one, not even
// while it is written: every operation repeats its path.
func TestPatchesAreNotMuchLongerThanDocuments(t *testing.T) {
	key := strings.Repeat("k", 1<<18)
	items := func(v int) string {
		return `{"` + key + `":[` + strings.TrimSuffix(strings.Repeat(strconv.Itoa(v)+",", 2000), ",") + `]}`
	}
	old, new := document(t, items(1)), document(t, items(2))
	patch := Diff(old, new, nil)
	if n := cap(patch.list); n > 4*len(new.Bytes()) {
		t.Errorf("a patch of a document of %d bytes took %d", len(new.Bytes()), n)
	}
	if patch.Len() != 1 {
		t.Errorf("%d operations", patch.Len())
	}
}

// verdicts are texts at the edge of what JSON allows.
var verdicts = []string{
	``, ` `, `{`, `{"a":[1,2`, `{"a":2}{"a":3}`, `{"a":2}xyz`, "\ufeff{}", "\"\xff\"", `"\ud800"`, `01`, `1.`, `-`, `-0`, `1e400`,
	`"\x"`, "\"\t\"", `[1,]`, `{"a":1,}`, `{"a"}`, `nul`, `null`, ` null `, `[[]]`, `"a`, `"\u12"`, "\x00", `{"":{"":[]}}`, `{"a":1 "b":2}`, `<html>`,
}

func TestParseAcceptsWhatIsJSON(t *testing.T) {
	for _, text := range verdicts {
		want := json.Valid([]byte(text)) && utf8.ValidString(text)
		if _, err := Parse([]byte(text)); (err == nil) != want {
			t.Errorf("Parse(%q): %v, want valid %v", text, err, want)
		}
	}
	nested := func(n int) string { return strings.Repeat("[", n) + strings.Repeat("]", n) }
	if _, err := Parse([]byte(nested(MaxDepth))); err != nil {
		t.Errorf("%d levels: %v", MaxDepth, err)
	}
	for _, text := range []string{nested(MaxDepth + 1), nested(10_001), strings.Repeat("[", 10<<20)} {
		if _, err := Parse([]byte(text)); err == nil {
			t.Errorf("%d levels accepted", len(text)/2)
		}
	}
}

// texts makes random documents that are alike, so that patches are interesting.
type texts struct{ *rand.Rand }

func (r texts) value(depth int) string {
	switch n := r.IntN(10); {
	case depth == 0 || n < 4:
		return r.pick("0", "1", "-0", "1.0", "1e2", "9007199254740993", "9007199254740992", "true", "null", `""`, `"a"`, `"\u0061"`, `"~/\"\\"`, `"é"`)
	case n < 7:
		return r.list("[", "]", r.IntN(6), func() string { return r.value(depth - 1) })
	default:
		return r.list("{", "}", r.IntN(5), func() string {
			return r.pick(`"id"`, `"a"`, `"\u0061"`, `""`, `"a/b"`, `"m~n"`, `"~1"`, `"-"`, `"0"`, `"__proto__"`, `"q\"x"`, `"\n"`) + r.space() + ":" + r.value(depth-1)
		})
	}
}

func (r texts) pick(s ...string) string { return s[r.IntN(len(s))] }

func (r texts) space() string { return r.pick("", "", "", " ", "\n\t") }

func (r texts) list(open, end string, n int, item func() string) string {
	var items []string
	for range n {
		items = append(items, r.space()+item())
	}
	return open + strings.Join(items, ",") + r.space() + end
}

// keyed makes a list whose items have ids, sometimes doubled.
func (r texts) keyed() string {
	ids := r.Perm(8)[:r.IntN(8)]
	if len(ids) > 1 && r.IntN(8) == 0 {
		ids[0] = ids[1]
	}
	if r.IntN(2) == 0 {
		slices.Sort(ids)
	}
	i := 0
	return r.list("[", "]", len(ids), func() string {
		i++
		return fmt.Sprintf(`{"id":%d,"v":%d,"w":%s}`, ids[i-1], r.IntN(2), r.value(1))
	})
}

func TestRandomPairs(t *testing.T) {
	n := 200_000
	if testing.Short() {
		n = 20_000
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := texts{rand.New(rand.NewPCG(seed, 0))}
	for range n / 2 {
		check(t, r.value(3), r.value(3))
		check(t, r.keyed(), r.keyed())
	}
}

// Long lists of few different scalars go past the bounds of the edit script.
func TestLongRandomLists(t *testing.T) {
	r := texts{rand.New(rand.NewPCG(1, 2))}
	for range 20 {
		scalar := func() string { return r.pick("0", "1", "2", `"x"`) }
		check(t, r.list("[", "]", r.IntN(1500), scalar), r.list("[", "]", r.IntN(1500), scalar))
	}
}

func FuzzDiff(f *testing.F) {
	for _, text := range verdicts {
		f.Add([]byte(text), []byte(`{"a":[1,2,{"id":3}]}`))
	}
	r := texts{rand.New(rand.NewPCG(3, 4))}
	for range 50 {
		f.Add([]byte(r.value(3)), []byte(r.keyed()))
	}
	f.Fuzz(func(t *testing.T, old, new []byte) {
		a, errA := Parse(old)
		b, errB := Parse(new)
		for _, v := range []struct {
			text []byte
			err  error
		}{{old, errA}, {new, errB}} {
			if want := json.Valid(v.text) && utf8.Valid(v.text) && depthOf(v.text) <= MaxDepth; (v.err == nil) != want {
				t.Fatalf("Parse(%q): %v, want valid %v", v.text, v.err, want)
			}
		}
		if errA != nil || errB != nil {
			return
		}
		if bytes.Contains(old, []byte(`\u`)) || bytes.Contains(new, []byte(`\u`)) {
			Diff(a, b, nil) // the oracle cannot tell lone surrogates apart
			return
		}
		check(t, string(old), string(new))
	})
}

// depthOf counts levels by another way than the code under test.
func depthOf(text []byte) int {
	d := json.NewDecoder(bytes.NewReader(text))
	level, deepest := 0, 0
	for {
		token, err := d.Token()
		if err != nil {
			return deepest
		}
		switch token {
		case json.Delim('{'), json.Delim('['):
			level++
			deepest = max(deepest, level)
		case json.Delim('}'), json.Delim(']'):
			level--
		}
	}
}
