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

// diffed returns the patch, having checked that the document is what it would be
// without the old one.
func diffed(t testing.TB, old, new string, keys ...Key) *Patch {
	t.Helper()
	doc, patch, err := (&Differ{Keys: keys}).Diff(document(t, old), []byte(new))
	if err != nil {
		t.Fatalf("Diff(%.100q, %.100q): %v", old, new, err)
	}
	sameDocument(t, doc, new)
	limit := rand.IntN(8)
	worth := func(ops, bytes, _ int) bool { return ops <= limit && bytes <= 40*limit }
	doc, limited, err := (&Differ{Keys: keys, Worth: worth}).Diff(document(t, old), []byte(new))
	if err != nil {
		t.Fatalf("Diff(%.100q, %.100q) with a limit: %v", old, new, err)
	}
	sameDocument(t, doc, new)
	if limited != nil && limited.Len() > 0 && (limited.Len() > limit || len(limited.Bytes()) > 40*limit+1) {
		t.Fatalf("with a limit of %d: %s", limit, limited.Bytes())
	}
	if limited == nil && worth(patch.Len(), len(patch.Bytes())-1, 0) {
		t.Fatalf("with a limit of %d: no patch, without: %s", limit, patch.Bytes())
	}
	if limited != nil && rand.IntN(2) == 0 {
		return limited
	}
	return patch
}

// sameDocument checks a document and its index against a fresh one of text.
func sameDocument(t testing.TB, doc *Document, text string) {
	t.Helper()
	fresh := document(t, text)
	if !bytes.Equal(doc.Bytes(), fresh.Bytes()) {
		t.Fatalf("document is %q, want %q", doc.Bytes(), fresh.Bytes())
	}
	checkIndex(t, doc.text, 0, doc.index)
}

// checkIndex checks that marks stand where children start and are close enough.
func checkIndex(t testing.TB, text []byte, start int, index *node) {
	t.Helper()
	size := skip(text, start) - start
	if index == nil {
		return
	}
	if int(index.size) != size {
		t.Fatalf("index says %d bytes, has %d", index.size, size)
	}
	c := childrenOf(text, start, nil)
	last := start
	for _, m := range index.marks {
		for !c.ended() && c.at < start+int(m.offset) {
			end := c.end(c.value())
			if c.at-last > 2*spacing && c.at != last {
				t.Fatalf("no mark between %d and %d", last, c.at)
			}
			c.next(end)
		}
		if c.at != start+int(m.offset) || c.number != int(m.number) || c.ended() {
			t.Fatalf("mark of child %d at %d; child %d is at %d", m.number, m.offset, c.number, c.at-start)
		}
		if from := c.value(); m.sub != nil {
			checkIndex(t, text, from, m.sub)
		}
		last = c.at
	}
	for !c.ended() {
		end := c.end(c.value())
		if c.at-last > 2*spacing && c.at != last {
			t.Fatalf("no mark between %d and %d", last, c.at)
		}
		c.next(end)
	}
}

// check compares two texts and asks the oracle whether the patch is right.
func check(t testing.TB, old, new string, keys ...Key) *Patch {
	t.Helper()
	patch := diffed(t, old, new, keys...)
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
		if got := diffed(t, c[0], c[1]).Bytes(); string(got) != c[2] {
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
	// By what they have in common, items would be taken for those at their place.
	item := func(code string, at, n int) string {
		return fmt.Sprintf(`{"code":%q,"at":"%40d","sub":{"n":%d,"of":"%80s"}}`, code, at, n, code)
	}
	old := `{"x":[` + item("a", 0, 1) + "," + item("b", 1, 1) + "," + item("c", 2, 1) + `]}`
	new := `{"x":[` + item("d", 0, 9) + "," + item("a", 1, 2) + "," + item("b", 2, 3) + "," + item("c", 3, 4) + `]}`
	with := check(t, old, new, Key{"/x", "code"})
	if with.Len() != 7 {
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
	worth := func(_, bytes, size int) bool { return bytes <= 2*size }
	_, patch, err := (&Differ{Worth: worth}).Diff(document(t, items(1)), []byte(items(2)))
	if err != nil {
		t.Fatal(err)
	}
	if patch == nil || patch.Len() != 1 {
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
	// A million pairs take a minute without the race detector: -count 40.
	randomly(t, 7_500, func(t *testing.T, r texts, n int) {
		for range n {
			check(t, r.value(3), r.value(3))
			check(t, r.keyed(), r.keyed())
		}
	})
}

// damaged changes, inserts or takes away a byte or two, or all from some place on.
func (r texts) damaged(text string) string {
	b := []byte(text)
	for range 1 + r.IntN(2) {
		if len(b) == 0 {
			break
		}
		at, c := r.IntN(len(b)), r.pick(`"`, `\`, "{", "}", "[", "]", ",", ":", "0", "7", ".", "-", "e", "n", "t", " ", "\n", "\x00", "\xff", "é")
		switch r.IntN(8) {
		case 0, 1, 2:
			b = slices.Replace(b, at, at+1, []byte(c)...)
		case 3, 4:
			b = slices.Insert(b, at, []byte(c)...)
		case 5, 6:
			b = slices.Delete(b, at, at+1)
		case 7:
			b = b[:at]
		}
	}
	return string(b)
}

// What the quick way accepts is what the slow one does, wherever the damage is.
func TestDamagedTextsAreFound(t *testing.T) {
	n := 15_000
	if testing.Short() {
		n = 5_000
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := texts{rand.New(rand.NewPCG(seed, 0))}
	for range n / 2 {
		old := r.value(3)
		if r.IntN(2) == 0 {
			old = r.keyed()
		}
		compared(t, []byte(old), []byte(r.damaged(old)))
	}
	large := newStations(60)
	old := string(large.text())
	for range n / 20 {
		large.some(r.IntN(3))
		new := []byte(r.damaged(string(large.text())))
		if _, _, err := (&Differ{}).Diff(document(t, old), new); (err == nil) != valid(new) {
			t.Fatalf("Diff(%q, %q): %v", old, new, err)
		}
	}
}

// In a chain of documents each index is made of the one before.
func TestChains(t *testing.T) {
	randomly(t, 8, func(t *testing.T, r texts, n int) {
		for range n {
			s := newStations(50)
			s.Rand = r.Rand
			doc := document(t, string(s.text()))
			value, err := oracle.Value(doc.Bytes())
			if err != nil {
				t.Fatal(err)
			}
			for range 50 {
				s.step()
				new := s.text()
				next, patch, err := (&Differ{}).Diff(doc, new)
				if err != nil {
					t.Fatal(err)
				}
				if value, err = oracle.Apply(value, patch.Bytes()); err != nil {
					t.Fatal(err)
				}
				if want, _ := oracle.Value(new); !reflect.DeepEqual(value, want) {
					t.Fatalf("%s\n→ %s\nby %s\nbecomes %v", doc.Bytes(), new, patch.Bytes(), value)
				}
				sameDocument(t, next, string(new))
				doc = next
			}
		}
	})
}

// step changes a list as lists change, at the same place rather often.
func (s *stations) step() {
	for range s.IntN(4) {
		at := s.IntN(len(s.list) + 1)
		if s.IntN(2) == 0 {
			at = min(2, len(s.list))
		}
		switch s.IntN(5) {
		case 0, 1:
			s.list = slices.Insert(s.list, at, station{id: s.IntN(1000)})
		case 2:
			if at < len(s.list) {
				s.list = slices.Delete(s.list, at, at+1)
			}
		case 3:
			if at < len(s.list) {
				s.change(at)
			}
		case 4:
			if at < len(s.list) {
				s.list[at].order = s.Perm(13)
			}
		}
	}
	if s.IntN(20) == 0 {
		s.Shuffle(len(s.list), func(i, k int) { s.list[i], s.list[k] = s.list[k], s.list[i] })
	}
	s.updated += s.IntN(2)
}

// densely runs a test as usual, and once more with indices for small documents.
func densely(t *testing.T, test func(t *testing.T)) {
	t.Run("usual index", test)
	t.Run("dense index", func(t *testing.T) {
		defer func(a, b, c int) { spacing, indexed, share = a, b, c }(spacing, indexed, share)
		spacing, indexed, share = 8, 16, 1
		test(t)
	})
}

// randomly runs a test densely, each time with the same random texts, and tells it how
// often to repeat itself: n times, or fewer with -short.
func randomly(t *testing.T, n int, test func(t *testing.T, r texts, n int)) {
	if testing.Short() {
		n /= 3
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	densely(t, func(t *testing.T) { test(t, texts{rand.New(rand.NewPCG(seed, 0))}, n) })
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
		if _, err := Parse(old); (err == nil) != valid(old) {
			t.Fatalf("Parse(%q): %v", old, err)
		}
		if valid(old) {
			compared(t, old, new)
		}
	})
}

// valid says by other means what a document is.
func valid(text []byte) bool {
	return json.Valid(text) && utf8.Valid(text) && depthOf(text) <= MaxDepth
}

// compared compares a document with whatever text, with all kinds of index.
func compared(t testing.TB, old, new []byte) {
	t.Helper()
	denselyIndexed(func() {
		if _, _, err := (&Differ{}).Diff(document(t, string(old)), new); (err == nil) != valid(new) {
			t.Fatalf("Diff(%q, %q): %v", old, new, err)
		} else if err == nil {
			if bytes.Contains(old, []byte(`\u`)) || bytes.Contains(new, []byte(`\u`)) {
				diffed(t, string(old), string(new)) // the oracle cannot tell lone surrogates apart
			} else {
				check(t, string(old), string(new))
			}
		}
	})
}

// denselyIndexed calls f as usual, and once more with indices for small documents.
func denselyIndexed(f func()) {
	defer func(a, b, c int) { spacing, indexed, share = a, b, c }(spacing, indexed, share)
	f()
	spacing, indexed, share = 8, 16, 1
	f()
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
