package jsondiff

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// unlimited returns the patch of a differ without limits, having checked it.
func unlimited(t *testing.T, old, new string, keys ...Key) *Patch {
	t.Helper()
	check(t, old, new, keys...)
	_, patch, err := (&Differ{Keys: keys}).Diff(document(t, old), []byte(new))
	if err != nil {
		t.Fatal(err)
	}
	return patch
}

// effortOf returns how many bytes are read to find out about the changes.
func effortOf(t *testing.T, old, new string) int {
	t.Helper()
	doc := document(t, old)
	d := differ{Differ: &Differ{}, scanner: scanner{text: []byte(new)}, old: doc.text}
	if d.document(doc.index); d.err != nil || d.repeated {
		t.Fatalf("%v, repeated %v", d.err, d.repeated)
	}
	return d.effort
}

// sameNodes checks that an index has all the nodes that another of the same text has.
func sameNodes(t *testing.T, at string, got, want *node) {
	t.Helper()
	if (got == nil) != (want == nil) {
		t.Errorf("%s: node %v, want %v", at, got != nil, want != nil)
	}
	if got == nil || want == nil {
		return
	}
	for _, w := range want.marks {
		if w.sub == nil {
			continue
		}
		i := slices.IndexFunc(got.marks, func(m mark) bool { return m.offset == w.offset })
		if i < 0 {
			t.Errorf("%s: no mark of child %d", at, w.number)
			continue
		}
		sameNodes(t, fmt.Sprintf("%s/%d", at, w.number), got.marks[i].sub, w.sub)
	}
}

func wrapped(levels int, open, in, end string) string {
	return strings.Repeat(open, levels) + in + strings.Repeat(end, levels)
}

// numbers is an array whose text is long enough for an index.
func numbers(from, n int) string { return list(n, func(i int) string { return fmt.Sprint(from + i) }) }

// large is an array of objects of which each has an array with an index.
func large(n int, item func(i int) string) string {
	return list(n, func(i int) string {
		return fmt.Sprintf(`{"id":%d,"list":%s,"v":%s}`, i, numbers(10_000*i, 2000), item(i))
	})
}

func TestIndicesKeepTheirNodes(t *testing.T) {
	zero := func(int) string { return "0" }
	one := func(k int, value string) func(int) string {
		return func(i int) string {
			if i == k {
				return value
			}
			return "0"
		}
	}
	array := large(5, zero)
	inArray := strings.Replace(array, ",20007,", ",7,", 1)
	object := func(a, b, more string) string {
		return `{"a":` + a + `,"b":` + b + `,"c":{"d":` + array + `}` + more + `}`
	}
	for _, c := range []struct{ name, old, new string }{
		{"scalar in an item", array, large(5, one(2, "1"))},
		{"scalar in an array in an item", array, inArray},
		{"item gone", array, "[" + array[strings.Index(array, `{"id":1`):]},
		{"item more", "[" + array[strings.Index(array, `{"id":1`):], array},
		{"two items in one", array, `[` + numbers(0, 3000) + array[strings.Index(array, `{"id":2`)-1:]},
		{"before an object", object("1", array, ""), object("2", array, "")},
		{"in an object", object("1", array, ""), object("1", inArray, "")},
		{"shorter in an object", object("1", array, ""), object("1", numbers(1, 2000), "")},
		{"longer in an object", object("1", numbers(1, 2000), ""), object("1", array, "")},
		{"member more", object("1", array, ""), object("1", array, `,"e":1`)},
		{"member gone", object("1", array, `,"e":1`), object("1", array, "")},
		{"another name", object("1", array, ""), strings.Replace(object("1", array, ""), `"b"`, `"x"`, 1)},
		{"most of an array", "[1," + array + "]", "[1," + inArray + "]"},
		{"white space", array, " " + strings.ReplaceAll(inArray, ",", ", ")},
		{"repeated name", object("1", array, ""), object("1", array, `,"a":2`)},
		{"everything", numbers(0, 3000), array},
	} {
		never := func(_, _, _ int) bool { return false }
		for _, differ := range []*Differ{{}, {Worth: never}, {Merge: true}} {
			doc, _, err := differ.Diff(document(t, c.old), []byte(c.new))
			if err != nil {
				t.Fatal(err)
			}
			sameDocument(t, doc, c.new)
			sameNodes(t, c.name, doc.index, document(t, c.new).index)
		}
	}
}

// As long as little has changed, little is read.
func TestLittleIsReadForLittleChanges(t *testing.T) {
	stations := string(newStations(2000).text())
	long := numbers(10_000, 20_000)
	other := strings.Replace(long, ",20000,", ",7,", 1)
	text := `"` + strings.Repeat("x", 40) + `",`
	tail := `,"b":"` + strings.Repeat("x", 100) + `"}`
	for _, c := range []struct {
		name, old, new string
		most           int
	}{
		{"one scalar", stations, strings.Replace(stations, `"ttl":60`, `"ttl":61`, 1), 100},
		{"one member of one item", stations, strings.Replace(stations, "Corner of Street 7 ", "Corner of Street X ", 1), 10_000},
		{"the last item", stations, strings.Replace(stations, "]}}", ",1]}}", 1), 10_000},
		{"most of an array", "[" + text + long + "]", "[" + text + other + "]", 10_000},
		{"many levels", wrapped(20, `{"a":`, long, `}`), wrapped(20, `{"a":`, other, `}`), 10_000},
		{"early in many levels", wrapped(50, `{"a":`, "1", tail), wrapped(50, `{"a":`, "2", tail), 20_000},
	} {
		check(t, c.old, c.new)
		if n := effortOf(t, c.old, c.new); n > c.most {
			t.Errorf("%s: %d bytes of %d read", c.name, n, len(c.new))
		}
	}
}

// A differ loses patience with what was made for that, and with nothing else.
func TestPatience(t *testing.T) {
	always := func(_, _, _ int) bool { return true }
	deep := func(digit string) string {
		return list(150, func(int) string { return wrapped(900, "[", digit, "]") })
	}
	deepObjects := func(digit string) string {
		return list(150, func(int) string { return wrapped(900, `{"a":`, digit, `}`) })
	}
	long := numbers(100_000, 300_000)
	other := strings.Replace(long, ",200000,", ",7,", 1)
	ids := func(value string, from int) string {
		return list(20_000, func(i int) string {
			return fmt.Sprintf(`{"id":%d,"v":%s,"name":"%080d"}`, from+i, value, from+i)
		})
	}
	for _, c := range []struct {
		name, old, new string
		loses          bool
	}{
		{"deep arrays", deep("1"), deep("2"), true},
		{"deep objects", deepObjects("1"), deepObjects("2"), true},
		{"one deep array", wrapped(500, "[", `1,"x"`, "]"), wrapped(500, "[", `2,"x"`, "]"), false},
		{"long list in many levels", wrapped(40, `{"a":`, long, `}`), wrapped(40, `{"a":`, other, `}`), false},
		{"all items changed", ids("1", 0), ids("2", 30), false},
	} {
		_, patch, err := (&Differ{Worth: always}).Diff(document(t, c.old), []byte(c.new))
		if err != nil {
			t.Fatal(err)
		}
		if (patch == nil) != c.loses {
			t.Errorf("%s: lost patience: %v", c.name, patch == nil)
		}
	}
}

// However a container is compared, its levels are counted.
func TestLevelsAreCountedOnEveryWay(t *testing.T) {
	filler := `"` + strings.Repeat("x", 40) + `"`
	many := func(from, n int) string { return strings.Trim(numbers(from, n), "[]") }
	for _, c := range []struct {
		name, old, new string // with % for a value
		levels         int    // around it
	}{
		{"member", `{"a":%}`, `{"a":%}`, 1},
		{"first item", `[%]`, `[%]`, 1},
		{"item of several", `[` + filler + `,%,1]`, `[` + filler + `,%,1,2]`, 1},
		{"item of which there are more", `[%,` + filler + `]`, `[%,2,` + filler + `]`, 1},
		{"item that is most of an array", `[` + filler + `,[` + many(0, 3000) + `,%]]`, `[` + filler + `,[` + many(0, 3000) + `,%]]`, 2},
		{"member after another name", `{"a":1,"b":%}`, `{"x":1,"b":%}`, 1},
		{"member of another name", `{"a":%}`, `{"x":%}`, 1},
		{"member before another name", `{"b":%,"a":1}`, `{"b":%,"x":1}`, 1},
		{"member in another order", `{"a":1,"b":{"c":%}}`, `{"b":{"c":%},"a":1}`, 2},
		{"array in another order", `{"a":1,"b":[%]}`, `{"b":[%],"a":1}`, 2},
		{"in a list of objects", `[{"id":1,"v":%},{"id":2}]`, `[{"id":0},{"id":1,"v":%}]`, 2},
		{"before many items", `[%,` + numbers(0, 100)[1:], `[%,` + numbers(500, 130)[1:], 1},
		{"behind many items", `[` + many(0, 3000) + `,%]`, `[` + many(5000, 3100) + `,%]`, 1},
	} {
		for _, in := range []string{"0", "[0]"} {
			old := document(t, strings.Replace(c.old, "%", in, 1))
			never := func(_, _, _ int) bool { return false }
			for _, differ := range []*Differ{{}, {Worth: never}} {
				for n := MaxDepth - c.levels; n <= MaxDepth-c.levels+1; n++ {
					for _, deep := range []string{wrapped(n, "[", "", "]"), wrapped(n-1, `{"a":`, "{}", `}`)} {
						_, _, err := differ.Diff(old, []byte(strings.Replace(c.new, "%", deep, 1)))
						if (err == nil) != (n+c.levels <= MaxDepth) {
							t.Errorf("%s, from %s to %.3s…: %d levels: %v", c.name, in, deep, n+c.levels, err)
						}
					}
				}
			}
		}
	}
}

// What patches have to be, so that they are short.
func TestPatchesAreShort(t *testing.T) {
	filler := strings.Repeat("x", 300)
	ids := func(n, from int, v func(id int) int) string {
		s := list(n, func(i int) string { return fmt.Sprintf(`{"id":%d,"v":%d,"f":"%0300d"}`, from+i, v(from+i), from+i) })
		return s[1 : len(s)-1]
	}
	zero := func(int) int { return 0 }
	one := func(int) int { return 1 }
	items := large(4, func(int) string { return "0" })
	big := numbers(0, 3000)
	for _, c := range []struct {
		name, old, new string
		patch          string
		ops            int
	}{
		{"shorter said whole", `{"a":{"x":1,"y":2,"z":3},"b":"` + filler + `"}`, `{"a":{"x":4,"y":5,"z":6},"b":"` + filler + `"}`,
			`[{"op":"replace","path":"/a","value":{"x":4,"y":5,"z":6}}]`, 1},
		{"large items", items, "[" + items[strings.Index(items, `{"id":1`):], `[{"op":"remove","path":"/0"}]`, 1},
		{"most of an array, after a new item", `["` + filler + `",` + big + `]`, `[0,"` + filler + `",` + strings.Replace(big, ",2000,", ",7,", 1) + `]`,
			`[{"op":"add","path":"/0","value":0},{"op":"replace","path":"/2/2000","value":7}]`, 2},
		{"numbers that are alike by chance", `[1,2,` + numbers(3, 60)[1:], `[3,4,1,2,` + numbers(3, 60)[1:],
			`[{"op":"add","path":"/0","value":3},{"op":"add","path":"/1","value":4}]`, 2},
		{"in place, though other ids", `[{"id":1,"v":0,"f":"` + filler + `"},{"id":2,"v":0,"f":"` + filler + `"}]`, `[{"id":2,"v":0,"f":"` + filler + `"},{"id":1,"v":0,"f":"` + filler + `"}]`,
			`[{"op":"replace","path":"/0/id","value":2},{"op":"replace","path":"/1/id","value":1}]`, 2},
		{"many new items", "[" + ids(300, 100, zero) + "]", "[" + ids(400, 0, zero) + "]", "", 100},
		{"many new items before changed ones", "[" + ids(300, 100, zero) + "]", "[" + ids(400, 0, func(id int) int { return max(0, 150-id) * min(1, id/100) }) + "]", "", 150},
		{"a new item before changed ones", "[" + ids(100, 1, zero) + "]", "[" + ids(101, 0, one) + "]", "", 101},
		{"item of 24 in another place", "[" + ids(24, 0, zero) + "]", "[" + ids(1, 23, zero) + "," + ids(23, 0, zero) + "]", "", 2},
		{"numbers and strings", `[{"id":1,"f":"` + filler + `"},{"id":"1","g":"` + filler + `"}]`, `[{"id":"1","g":"` + filler + `"}]`, `[{"op":"remove","path":"/0"}]`, 1},
		{"negative ids", `[{"id":-1,"f":{"a":"` + filler + `","b":1}},{"id":-2,"f":{"a":"` + filler + `","b":2}},{"id":-3,"f":{"a":"` + filler + `","b":3}}]`,
			`[{"id":-2,"f":{"a":"` + filler + `","b":0}},{"id":-3,"f":{"a":"` + filler + `","b":0}}]`,
			`[{"op":"remove","path":"/0"},{"op":"replace","path":"/0/f/b","value":0},{"op":"replace","path":"/1/f/b","value":0}]`, 3},
		{"a change between anchors, and one away", `[["a","b","c"],["d","e","f"],["` + filler + `","` + filler + `y",0]]`, `[["d","e","f"],["` + filler + `","` + filler + `y",1]]`,
			`[{"op":"remove","path":"/0"},{"op":"replace","path":"/1/2","value":1}]`, 2},
		{"the heaviest stays", `["` + filler + `","a","b"]`, `["a","b","` + filler + `"]`,
			`[{"op":"add","path":"/0","value":"a"},{"op":"add","path":"/1","value":"b"},{"op":"remove","path":"/3"},{"op":"remove","path":"/3"}]`, 4},
	} {
		patch := unlimited(t, c.old, c.new)
		if patch.Len() != c.ops || c.patch != "" && string(patch.Bytes()) != c.patch {
			t.Errorf("%s: %d operations: %.400s", c.name, patch.Len(), patch.Bytes())
		}
	}
}

// An array may become much longer or shorter than is read at once.
func TestVeryLongArrays(t *testing.T) {
	zeros := list(2*most+10_000, func(int) string { return "0" })
	for _, c := range [][2]string{{"[]", zeros}, {zeros, "[]"}, {"[1]", zeros}, {zeros, "[1]"}} {
		check(t, c[0], c[1])
	}
}

// Nothing is added to a patch that is not worth it any more, not even for a while.
func TestPatchesNeverGetLong(t *testing.T) {
	key := strings.Repeat("k", 1<<14)
	members := func(name string, v int) string {
		s := list(2000, func(i int) string { return fmt.Sprintf(`"%s%d":%d`, name, i, v) })
		return "{" + s[1:len(s)-1] + "}"
	}
	objects := func(name string, v int) string {
		return list(500, func(i int) string { return fmt.Sprintf(`{"id":"%s%d","v":%d}`, name, i, v) })
	}
	for _, c := range []struct{ name, old, new string }{
		{"members changed", members("a", 1), members("a", 2)},
		{"members of other names", members("a", 1), members("b", 2)},
		{"object filled", "{}", members("a", 1)},
		{"object emptied", members("a", 1), "{}"},
		{"items changed", numbers(0, 2000), numbers(5000, 2000)},
		{"array filled", "[]", numbers(0, 2000)},
		{"array emptied", numbers(0, 2000), "[]"},
		{"other objects", objects("a", 1), objects("b", 2)},
		{"objects changed", objects("a", 1), objects("a", 2)},
	} {
		worth := func(_, bytes, size int) bool { return bytes <= 2*size }
		old, new := `{"`+key+`":`+c.old+`}`, `{"`+key+`":`+c.new+`}`
		_, patch, err := (&Differ{Worth: worth}).Diff(document(t, old), []byte(new))
		if err != nil {
			t.Fatal(err)
		}
		if patch == nil || patch.Len() != 1 {
			t.Fatalf("%s: patch %v", c.name, patch)
		}
		if n := cap(patch.paths); n > 8*len(new) {
			t.Errorf("%s: %d bytes of paths on the way, for %d", c.name, n, len(new))
		}
	}
}

func TestEqualArraysHaveNoMergePatch(t *testing.T) {
	_, patch, err := (&Differ{Merge: true}).Diff(document(t, `{"a":["\u0061"],"b":1}`), []byte(`{"a":["a"],"b":1}`))
	if err != nil || patch.Len() != 0 {
		t.Errorf("%s, %v", patch.Bytes(), err)
	}
}

// The same bytes need not be read again, whatever they are.
func TestSameBytesAreTheSameDocument(t *testing.T) {
	for _, text := range []string{`[1]`, " [1, 2]\n", `{"a":1,"a":2}`} {
		for _, old := range []string{text, `[0]`, "[ 0 ]", `{"a":1}`} {
			doc, _, err := new(Differ).Diff(document(t, old), []byte(text))
			if err != nil {
				t.Fatal(err)
			}
			again, patch, err := new(Differ).Diff(doc, []byte(text))
			if again != doc || patch.Len() != 0 || err != nil {
				t.Errorf("%q after %q: another document, %v", text, old, err)
			}
		}
	}
}

func TestWholeIsAPatch(t *testing.T) {
	if got := Whole([]byte(`{"a":1}`)); !bytes.Equal(got, []byte(`[{"op":"replace","path":"","value":{"a":1}}]`)) {
		t.Errorf("%s", got)
	}
}

// longItems makes lists of items that are so long that a patch is seldom longer. Items
// with ids, some without, some repeated, change, come, go and move.
func (r texts) longItems() (old, new string) {
	kind := r.IntN(3)
	item := func(id, v int) string {
		switch kind {
		case 0:
			return fmt.Sprintf(`{"id":%d,"v":{"w":%d},"name":"%060d"}`, id, v, id)
		case 1:
			return fmt.Sprintf(`{"name":"%060d","v":%d,"more":["%060d"]}`, id, v, id)
		}
		return fmt.Sprintf(`"%040d"`, id+100*v)
	}
	type entry struct{ id, v int }
	var list []entry
	for i := range 1 + r.IntN(40) {
		list = append(list, entry{i, 0})
	}
	text := func() string {
		var items []string
		for _, e := range list {
			items = append(items, item(e.id, e.v))
		}
		return `{"a":[` + strings.Join(items, ",") + `],"b":1}`
	}
	old = text()
	for range 1 + r.IntN(6) {
		at := r.IntN(len(list) + 1)
		switch n := r.IntN(5); {
		case n == 0 || at == len(list):
			list = slices.Insert(list, at, entry{50 + r.IntN(50), 0})
		case n == 1:
			list = slices.Delete(list, at, at+1)
		case n == 2:
			list[at].v++
		case n == 3:
			e := list[at]
			list = slices.Delete(list, at, at+1)
			list = slices.Insert(list, r.IntN(len(list)+1), e)
		case n == 4:
			list = slices.Insert(list, at, list[r.IntN(len(list))])
		}
	}
	return old, text()
}

func TestRandomListsOfLongItems(t *testing.T) {
	randomly(t, 2_000, func(t *testing.T, r texts, n int) {
		for range n {
			old, new := r.longItems()
			check(t, old, new)
		}
	})
}

// The key of an array is the one given for it, else the default one.
func TestKeysAreForTheirArrays(t *testing.T) {
	item := func(id, code, n int) string {
		return fmt.Sprintf(`{"ID":"%d","code":%d,"f":{"a":"%0100d","n":%d}}`, id, code, min(id, code), n)
	}
	old := "[" + item(1, 1, 0) + "," + item(2, 2, 0) + "," + item(3, 3, 0) + "]"
	byID := "[" + item(2, 8, 1) + "," + item(3, 9, 1) + "]"
	byCode := "[" + item(8, 2, 1) + "," + item(9, 3, 1) + "]"
	for _, c := range []struct {
		new, member, id string
		keys            []Key
	}{
		{byID, "x", "id", nil},
		{byID, "x", `\u0069d`, nil},
		{byID, "x", "id", []Key{{"/y", "code"}}},
		{byID, "x", "id", []Key{{"", "code"}, {"/x/0", "code"}, {"x", "code"}}},
		{byCode, "x", "id", []Key{{"/y", "id"}, {"/x", "code"}}},
		{byCode, `x\"`, "id", []Key{{`/x"`, "code"}}},
		{byCode, `\u0000`, "id", []Key{{"/\x00", "code"}}},
		{byCode, `~\/`, "id", []Key{{"/~0~1", "code"}}},
		{byCode, "x", "id", []Key{{"/*", "code"}, {"/x", "ID"}}},
		{byCode, `x":{"*":{"y`, "id", []Key{{"/x/y", "id"}, {"/x/*/*", "code"}, {"/x/*/y", "id"}}},
		{byID, `x":{"*":{"y`, "id", []Key{{"/*/*", "code"}, {"/x/*/*/*", "code"}, {"/x/*/z", "code"}}},
	} {
		in := func(list string) string {
			return `{"` + c.member + `":` + strings.ReplaceAll(list, "ID", c.id) + strings.Repeat("}", 1+strings.Count(c.member, "{"))
		}
		if p := unlimited(t, in(old), in(c.new), c.keys...); !bytes.HasPrefix(p.Bytes(), []byte(`[{"op":"remove",`)) || p.Len() != 5 {
			t.Errorf("%q, %q, %v: %s", c.member, c.id, c.keys, p.Bytes())
		}
	}
}

// Items without ids are paired by what they have in common, in long lists too.
func TestContentTellsItemsApart(t *testing.T) {
	item := func(i, v int) string {
		return fmt.Sprintf(`{"a":"%020d","b":["%020d"],"c":%d,"d":"%020d"}`, i, i+1000, v, i+2000)
	}
	items := func(from, to int, v func(i int) int) string {
		return list(to-from, func(i int) string { return item(from+i, v(from+i)) })
	}
	zero := func(int) int { return 0 }
	one := func(int) int { return 1 }
	someZero := func(i int) int {
		if i >= 125 && i%10 == 0 {
			return 0
		}
		return 1
	}
	for _, c := range []struct {
		name, old, new string
		ops            int
	}{
		{"first one gone", items(0, 10, zero), items(1, 10, one), 1 + 9},
		{"first one new", items(1, 10, zero), items(0, 10, one), 1 + 9},
		{"many new ones", items(100, 200, zero), items(0, 200, someZero), 100 + 93},
	} {
		if p := unlimited(t, c.old, c.new); p.Len() != c.ops {
			t.Errorf("%s: %d operations, want %d: %.300s", c.name, p.Len(), c.ops, p.Bytes())
		}
	}
}

// What JSON allows in strings and numbers, wherever it stands in a block of eight bytes.
func TestStringsAndNumbersAtTheEdge(t *testing.T) {
	var values []string
	for _, piece := range []string{`\b`, `\f`, `\r`, `\/`, `\"`, `\\`, `\x`, `\`, `\u00e9`, `\u00E9`, `\u12G4`, `\u123g`, `\u123`, `\u`, `\U1234`,
		"\t", "\x00", "\x1f", "\x7f", "é", "한", "\xff", "\xc3", "\x80", "\xed\xa0\x80", `\ud800`, `\ud83d\ude00`, `"`} {
		for before := range 9 {
			for after := range 9 {
				values = append(values, `"`+strings.Repeat("x", before)+piece+strings.Repeat("x", after)+`"`)
			}
		}
	}
	values = append(values, "1E5", "1E+5", "1e-5", "1.5E-0", "1e", "1e+", "1e5.0", "-01", "00", ".5", "+1", "--1", "1.e1", "0x1", "-", "-0.0", "1 1", "tru", "truE", "nulll", "True",
		"\f1", "1\f", "1\v", "\u00a01", "1\r\n", "\r1", "[1,\r2]", "[ ]", "{ }", "[,]", "{,}", "[1,,2]", `{"a":1,,"b":2}`, `{"a":1;"b":2}`, `{"a",1}`, `{1:1}`, "[1:2]", "[1}", `{"a":1]`, "]")
	for _, value := range values {
		for _, in := range []string{"%", "[%]", `{"a":%}`, "[0,%,1]", `{"a":[0],"b":[%]}`} {
			old, text := strings.Replace(in, "%", `"old"`, 1), strings.Replace(in, "%", value, 1)
			if _, err := Parse([]byte(text)); (err == nil) != valid([]byte(text)) {
				t.Errorf("Parse(%q): %v", text, err)
			}
			if _, _, err := new(Differ).Diff(document(t, old), []byte(text)); (err == nil) != valid([]byte(text)) {
				t.Errorf("Diff(%q, %q): %v", old, text, err)
			}
		}
	}
}

func TestEscapesMakeNoDifference(t *testing.T) {
	a, b := `"\b\f\n\r\t\/\ud83d\ude00x"`, `"\u0008\u000c\u000A\u000D\u0009\u002f😀x"`
	for _, in := range []string{"%", "[%]", "{%:1}", `{"a":{"b":[[%]]}}`} {
		a, b := strings.Replace(in, "%", a, 1), strings.Replace(in, "%", b, 1)
		if p := unlimited(t, a, b); p.Len() != 0 {
			t.Errorf("%s → %s: %s", a, b, p.Bytes())
		}
	}
}

func TestByteOrderMarksAreNamed(t *testing.T) {
	text := []byte("\ufeff[1]")
	if _, err := Parse(text); err != errMark {
		t.Errorf("Parse: %v", err)
	}
	if _, _, err := new(Differ).Diff(document(t, "[1]"), text); err != errMark {
		t.Errorf("Diff: %v", err)
	}
}

// Of members with the same name the last one counts, however many there are.
func TestRepeatedNames(t *testing.T) {
	for _, n := range []int{2, 15, 16, 17, 40, 300} {
		for _, twice := range []string{"k%d", `\u006b%d`} {
			var members, want []string
			for i := range n {
				members = append(members, fmt.Sprintf(`"k%d":%d`, i, i))
				if i != n/2 {
					want = append(want, members[i])
				}
			}
			last := fmt.Sprintf(`"`+twice+`":[]`, n/2)
			members, want = append(members, last), append(want, last)
			text := `{"x":{` + strings.Join(members, ",") + `},"y":{}}`
			doc, _, err := new(Differ).Diff(document(t, `{"x":{}}`), []byte(text))
			if err != nil {
				t.Fatal(err)
			}
			for _, doc := range []*Document{doc, document(t, text)} {
				if got, want := string(doc.Bytes()), `{"x":{`+strings.Join(want, ",")+`},"y":{}}`; got != want {
					t.Errorf("%s becomes %s", text, got)
				}
			}
			check(t, strings.Replace(text, last, last[:len(last)-2]+`1`, 1), text)
			check(t, `{"x":{"k0":1}}`, text)
		}
	}
}

func TestNamesInPointers(t *testing.T) {
	for _, c := range [][2]string{
		{`a/b~c`, `a~1b~0c`}, {`~1`, `~01`}, {`\"\\`, `\"\\`}, {`\u0000\u001f\n`, `\u0000\u001f\u000a`},
		{`한국`, `한국`}, {`\ud55c`, `한`}, {`\ud800`, `\ud800`}, {`x\udfffy`, `x\udfffy`}, {`\ud83d\ude00`, `😀`}, {``, ``}, {`é/`, `é~1`},
	} {
		filler := strings.Repeat("x", 300)
		old, new := fmt.Sprintf(`{"%s":{"a":1,"f":%q}}`, c[0], filler), fmt.Sprintf(`{"%s":{"a":2,"f":%q}}`, c[0], filler)
		_, p, err := (&Differ{}).Diff(document(t, old), []byte(new))
		if err != nil {
			t.Fatal(err)
		}
		if got, want := string(p.Bytes()), `[{"op":"replace","path":"/`+c[1]+`/a","value":2}]`; got != want {
			t.Errorf("%s: %s, want %s", c[0], got, want)
		}
	}
}

func TestValidPointers(t *testing.T) {
	for s, want := range map[string]bool{"": true, "/": true, "/a": true, "/a/0": true, "//": true, "/~0~1": true, "/é\n": true,
		"a": false, "a/b": false, "/~": false, "/~2": false, "/a~": false, "/a/~/b": false} {
		if ValidPointer(s) != want {
			t.Errorf("ValidPointer(%q): not %v", s, want)
		}
	}
}

// What a patch says of its size is what it has.
func TestSizesOfPatches(t *testing.T) {
	r := texts{rand.New(rand.NewPCG(5, 6))}
	for range 1000 {
		old, new := r.longItems()
		for _, differ := range []*Differ{{}, {Merge: true}} {
			_, p, err := differ.Diff(document(t, old), []byte(new))
			if err != nil {
				t.Fatal(err)
			}
			if n := len(p.Bytes()) - 1; p.Len() > 0 && p.size != n {
				t.Fatalf("%d bytes, said %d: %s", n, p.size, p.Bytes())
			}
		}
	}
}

// Whatever is taken out of a document, and whatever byte is put in, what is left is
// accepted if it is JSON.
func TestEveryDamageIsFound(t *testing.T) {
	damage := "\"\\{}[],:01.-eE \n\x00\xff"
	densely(t, func(t *testing.T) {
		for _, text := range []string{
			`[1,2]`, `[1,2,3,4]`, `{"a":1,"b":2}`, `{"a":[1,2],"b":{"c":3}}`, `[[1],[2,[]],{}]`, `[{"id":1,"v":2},{"id":2,"v":"x"}]`,
			`{"a":"long enough for a block","b":[null,true,-1.5e+7]}`,
		} {
			old := document(t, text)
			compare := func(new string) {
				if _, _, err := (&Differ{}).Diff(old, []byte(new)); (err == nil) != valid([]byte(new)) {
					t.Errorf("Diff(%q, %q): %v", text, new, err)
				}
			}
			for from := range len(text) + 1 {
				for to := from; to <= len(text); to++ {
					compare(text[:from] + text[to:])
				}
				for _, c := range []byte(damage) {
					compare(text[:from] + string([]byte{c}) + text[from:])
					if from < len(text) {
						compare(text[:from] + string([]byte{c}) + text[from+1:])
					}
				}
			}
		}
	})
}
