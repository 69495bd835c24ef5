package jsondiff

import (
	"bytes"
	"fmt"
	"math/bits"
	"math/rand/v2"
	"runtime"
	"strings"
	"testing"
	"time"
	"unsafe"
)

// What takes longest to compare: whatever an upstream comes up with, it takes neither
// minutes nor gigabytes, and the index stays small.
func TestHostileDocuments(t *testing.T) {
	size := 1 << 20
	if testing.Short() {
		size = 256 << 10
	}
	r := rand.New(rand.NewPCG(1, 2))
	list := func(item func(i int) string) string {
		var b strings.Builder
		for i := 0; b.Len() < size; i++ {
			b.WriteString("," + item(i))
		}
		return "[" + b.String()[1:] + "]"
	}
	object := func(name string, value func(i int) string) string {
		s := list(func(i int) string { return fmt.Sprintf(`"`+name+`":`, i) + value(i) })
		return "{" + s[1:len(s)-1] + "}"
	}
	nested := func(levels int, open, in, end string) string {
		return strings.Repeat(open, levels) + in + strings.Repeat(end, levels)
	}
	zero := func(int) string { return "0" }
	digit := func(int) string { return fmt.Sprint(r.IntN(10)) }
	number := func(plus int) func(int) string { return func(i int) string { return fmt.Sprint(i + plus) } }
	deep := func(i int) string { return nested(900, "[", digit(i), "]") }
	deepObjects := func(i int) string { return nested(900, `{"a":`, digit(i), "}") }
	reordered := func(levels int, first bool) string {
		zeros := "[0" + strings.Repeat(",0", levels) + "]"
		if first {
			return nested(levels, `{"b":1,"a":`, zeros, "}")
		}
		return nested(levels, `{"a":`, zeros, `,"b":1}`)
	}
	digits := func(n int) func(int) string {
		return func(int) string {
			return "[" + strings.TrimSuffix(strings.Repeat(digit(0)+","+digit(0)+","+digit(0)+",", size/n/6), ",") + "]"
		}
	}
	longName := strings.Repeat("k", size/4)
	for _, c := range []struct{ name, old, new string }{
		{"emptied", list(zero), "[]"},
		{"filled", "[]", list(zero)},
		{"digits", list(digit), list(digit)},
		{"shifted numbers", list(number(0)), list(number(100))},
		{"reversed numbers", list(number(0)), list(func(i int) string { return fmt.Sprint(size - i) })},
		{"deep arrays", list(deep), list(deep)},
		{"deep objects", list(deepObjects), list(deepObjects)},
		{"long list deep inside", nested(900, "[", list(number(0)), "]"), nested(900, "[", list(number(1)), "]")},
		{"names in another order", object("k%d", zero), object("k%x", zero)},
		{"names doubled at each level", "0", nested(900, `{"a":0,"a":`, list(number(0)), "}")},
		{"one name for all", object("a%.0d", zero), object("a%.0d", number(0))},
		{"long name", `{"` + longName + `":` + list(number(0)) + "}", `{"` + longName + `":` + list(number(1)) + "}"},
		{"ids in another order", list(func(i int) string { return fmt.Sprintf(`{"id":%d}`, i) }), list(func(i int) string { return fmt.Sprintf(`{"id":%d}`, i^0x5555) })},
		{"other escapes", list(func(int) string { return `"\u0061"` }), list(func(int) string { return `"a"` })},
		{"deep objects, other order", list(func(int) string { return reordered(300, true) }), list(func(int) string { return reordered(300, false) })},
		{"lists of digits", list(digits(64)), list(digits(64)) + " "},
		{"other lists of digits", list(digits(22)), list(digits(23))},
		{"two at each level", nested(40, "[", `1,"`+strings.Repeat("x", size)+`"`, `,"a"]`), nested(40, "[", `2,"`+strings.Repeat("x", size)+`"`, `,"b"]`)},
		{"white space", strings.Repeat(" ", size) + "[1]", "[" + strings.Repeat(" \n", size/2) + "2]"},
		{"broken at its end", list(number(0)), list(number(0)) + "x"},
	} {
		old := document(t, c.old)
		if old.index != nil && int(old.index.cost) > len(old.text)*12/100 {
			t.Errorf("%s: index of %d bytes for %d", c.name, old.index.cost, len(old.text))
		}
		differ := Differ{Worth: func(ops, bytes, size int) bool { return bytes <= size/2 && ops <= size/1500 }}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		start := time.Now()
		new, patch, _ := differ.Diff(old, []byte(c.new))
		took := time.Since(start)
		start = time.Now()
		_, err := Parse([]byte(c.new))
		parse := time.Since(start)
		runtime.ReadMemStats(&after)
		allocated := int(after.TotalAlloc - before.TotalAlloc)
		t.Logf("%-30s %8v, %3.0f times Parse, %3d MiB, patch: %v, %v", c.name, took.Round(time.Millisecond), float64(took)/float64(parse), allocated>>20, patch != nil, err)
		if took > 30*time.Second {
			t.Errorf("%s: %v", c.name, took)
		}
		if allocated > 80*size+64<<20 {
			t.Errorf("%s: %d bytes allocated", c.name, allocated)
		}
		if new != nil && !bytes.Equal(new.Bytes(), document(t, c.new).Bytes()) {
			t.Errorf("%s: another document", c.name)
		}
	}
}

// The index of a list of objects takes two percent of it, whatever their size.
func TestIndicesAreSmall(t *testing.T) {
	for _, n := range []int{10, 100, 300, 1000, 3000, 8000, 9000, 20_000, 200_000} {
		item := `{"v":"` + strings.Repeat("x", n/2) + `","w":["` + strings.Repeat("y", n/4) + `",{"z":"` + strings.Repeat("z", n/4) + `"}]}`
		doc := document(t, "["+strings.Repeat(item+",", 1_000_000/n+1)+"0]")
		if share := float64(doc.index.cost) / float64(len(doc.text)); share > 0.02 {
			t.Errorf("items of %d bytes: %.2f %%", n, share*100)
		}
	}
	if share := float64(document(t, string(newStations(2000).text())).index.cost) / float64(len(newStations(2000).text())); share > 0.02 {
		t.Errorf("stations: %.2f %%", share*100)
	}
}

// Two tries at each level would be a million at twenty levels. Without limits nothing
// else ends them.
func TestTriesDoNotMultiply(t *testing.T) {
	nested := func(v, w string) string { return strings.Repeat("[", 200) + v + strings.Repeat(`,"`+w+`"]`, 200) }
	check(t, nested("1", "a"), nested("2", "b"))
}

// What is tried in vain counts for nothing.
func TestTriesDoNotUseUpLimits(t *testing.T) {
	large := `{"x":[` + strings.Repeat(`{"n":12345678},`, 500) + `0]}`
	differ := Differ{Worth: func(ops, bytes, size int) bool { return bytes <= size/2 && ops <= 64 }}
	_, patch, err := differ.Diff(document(t, `{"l":[{"a":1},`+large+`],"t":1}`), []byte(`{"l":[`+large+`,{"a":1}],"t":1}`))
	if err != nil || patch == nil || patch.Len() != 2 {
		t.Errorf("%v, %v", patch, err)
	}
}

// Indices share their nodes, and no node keeps more memory than it says.
func TestIndicesStaySmall(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	var lists [64]string
	for i := range lists {
		lists[i] = "[" + strings.Repeat("12345678,", 60_000/9) + "0]"
	}
	text := func() string { return "[" + strings.Join(lists[:], ",") + "]" }
	doc := document(t, text())
	for range 25 {
		lists[r.IntN(len(lists))] = "[" + strings.Repeat(fmt.Sprintf("1234567%d,", r.IntN(10)), 60_000/9) + fmt.Sprint(r.IntN(10)) + "]"
		next, _, err := new(Differ).Diff(doc, []byte(text()))
		if err != nil {
			t.Fatal(err)
		}
		doc = next
	}
	memory := 0
	var measure func(n *node)
	measure = func(n *node) {
		memory += nodeSize + cap(n.marks)*markSize
		for _, m := range n.marks {
			if m.sub != nil {
				measure(m.sub)
			}
		}
	}
	measure(doc.index)
	if memory > len(doc.text)*2/100 {
		t.Errorf("%d bytes of index for %d bytes of text", memory, len(doc.text))
	}
	if bits.UintSize == 64 && (unsafe.Sizeof(node{}) != nodeSize || unsafe.Sizeof(mark{}) != markSize) {
		t.Errorf("a node has %d bytes, a mark %d", unsafe.Sizeof(node{}), unsafe.Sizeof(mark{}))
	}
}
