package promise

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
)

// Walk is a document that changes at random: its values change, items come, go and
// move, members appear, and now and then it is again what it was before.
type Walk struct {
	rand *rand.Rand
	name string
	next int // id of a new item
	full map[string]any
	now  any // full, or something else for a while
	past []any
}

// Ignored are the patterns of what changes in the documents of a walk without meaning.
var Ignored = []string{"/polled", "/items/*/seen"}

// Selectable are patterns for the parts that [Pointer] leads to.
var Selectable = []string{"/items", "/items/*", "/items/*/price", "/map", "/map/*", "/n"}

// NewWalk returns a walk of a document that says its name.
func NewWalk(r *rand.Rand, name string) *Walk {
	w := &Walk{rand: r, name: name}
	filler := r.IntN(300)
	if r.IntN(6) == 0 {
		filler = 8000 // more than a socket takes of a few documents
	}
	w.full = map[string]any{
		"name": name, "n": 0, "polled": 0, "items": []any{}, "map": map[string]any{},
		"filler": strings.Repeat("lorem ipsum ", filler), "a/b~c": map[string]any{"": nil},
	}
	for range r.IntN(30) {
		w.change()
	}
	w.now = w.full
	return w
}

// Pointer returns one to a part of such a document, or to the whole, drawn from r.
func Pointer(r *rand.Rand) string {
	id := strconv.Itoa(r.IntN(8))
	return []string{"", "", "/items", "/items/0", "/items/[id=" + id + "]", "/items/[id=" + id + "]/price", "/map", "/map/k" + id, "/n"}[r.IntN(9)]
}

// Step changes the document.
func (w *Walk) Step() {
	w.past = append(w.past, w.now)
	if len(w.past) > 5 {
		w.past = w.past[1:]
	}
	switch w.rand.IntN(16) {
	case 0:
		w.now = w.past[w.rand.IntN(len(w.past))]
	case 1:
		w.now = []any{nil, w.name, 1.5, []any{w.name}, map[string]any{}}[w.rand.IntN(5)]
	default:
		for range 1 + w.rand.IntN(3) {
			w.change()
		}
		w.now = w.full
	}
}

// change makes another value of the document, and leaves the old one as it is.
func (w *Walk) change() {
	r, doc := w.rand, maps.Clone(w.full)
	items, members := slices.Clone(doc["items"].([]any)), maps.Clone(doc["map"].(map[string]any))
	at := func() int { return r.IntN(len(items)) }
	switch kind := r.IntN(10); {
	case kind < 2 && len(items) < 25:
		items = slices.Insert(items, r.IntN(len(items)+1), any(map[string]any{"id": w.next % 40, "price": 1, "seen": 0, "note": w.note()}))
		w.next++
	case kind == 2 && len(items) > 0:
		i := at()
		items = slices.Delete(items, i, i+1)
	case kind == 3 && len(items) > 1:
		i, j := at(), at()
		items[i], items[j] = items[j], items[i]
	case kind < 6 && len(items) > 0:
		i := at()
		item := maps.Clone(items[i].(map[string]any))
		item[[]string{"price", "note", "seen"}[r.IntN(3)]] = r.IntN(100)
		items[i] = item
	case kind == 6:
		delete(members, "k"+strconv.Itoa(r.IntN(8)))
	case kind == 7:
		members["k"+strconv.Itoa(r.IntN(8))] = []any{nil, true, "", "é\u2028\"\\", r.IntN(5), map[string]any{}, []any{[]any{}}}[r.IntN(7)]
	case kind == 8:
		doc["polled"] = r.IntN(1000)
	default:
		doc["n"] = doc["n"].(int) + 1
	}
	doc["items"], doc["map"] = items, members
	w.full = doc
}

func (w *Walk) note() string { return strings.Repeat("dolor ", w.rand.IntN(20)) }

// String returns the document, each time in another of the spellings that JSON allows.
func (w *Walk) String() string {
	var b strings.Builder
	w.spell(&b, w.now)
	return b.String()
}

func (w *Walk) spell(b *strings.Builder, v any) {
	if w.rand.IntN(50) == 0 {
		b.WriteString(" \n")
	}
	switch v := v.(type) {
	case map[string]any:
		names := slices.Sorted(maps.Keys(v))
		if w.rand.IntN(10) == 0 {
			w.rand.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
		}
		for i, name := range names {
			b.WriteByte("{,"[min(i, 1)])
			w.spell(b, name)
			b.WriteByte(':')
			w.spell(b, v[name])
		}
		b.WriteString("{}"[min(len(names), 1):])
	case []any:
		for i, item := range v {
			b.WriteByte("[,"[min(i, 1)])
			w.spell(b, item)
		}
		b.WriteString("[]"[min(len(v), 1):])
	case string:
		text := strconv.QuoteToGraphic(v)
		if w.rand.IntN(4) == 0 {
			text = strings.ReplaceAll(strconv.QuoteToASCII(v), "/", `\/`)
		}
		b.WriteString(text)
	case nil:
		b.WriteString("null")
	default:
		fmt.Fprint(b, v)
	}
}
