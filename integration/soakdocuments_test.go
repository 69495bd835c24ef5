package integration

import (
	"context"
	"fmt"
	"hash/fnv"
	"maps"
	"math"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// restlessDocuments are an upstream whose documents change at random and that fails at
// random, unless it is calm. There is a document for each path, owner and query.
type restlessDocuments struct {
	seed   uint64
	calm   atomic.Bool
	faults atomic.Int64 // answers that were none
	broken []http.HandlerFunc

	mu     sync.Mutex // guards byName
	byName map[string]*restlessDocument
}

// restlessDocument says in each of its parts what it belongs to, which is in no other
// document, and which version changed it last. The total tells whether the items are
// those that were written, in their order.
type restlessDocument struct {
	name    string
	stable  int  // so many items are never removed
	tagged  bool // answers have an ETag
	between time.Duration

	mu       sync.Mutex // guards all below
	rand     *rand.Rand
	version  int
	part     int // the version that changed it last
	items    []restlessItem
	text     []byte // nil where it is of another version
	nextID   int
	changeAt time.Time
	fault    http.HandlerFunc
	faultEnd time.Time
}

type restlessItem struct{ id, version, value, length int }

func newRestlessDocuments(seed uint64) *restlessDocuments {
	d := &restlessDocuments{seed: seed, byName: make(map[string]*restlessDocument)}
	d.calm.Store(true)
	for _, name := range slices.Sorted(maps.Keys(outages)) {
		d.broken = append(d.broken, outages[name])
	}
	d.broken = append(d.broken, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Retry-After", "1")
		w.WriteHeader(http.StatusTooManyRequests)
	}, func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusGone) // some go on for long enough to count
	})
	return d
}

// document returns the one of that name, which is made when somebody first asks for it.
func (d *restlessDocuments) document(path, owner, query string) *restlessDocument {
	name := path + " " + owner + " " + query
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.byName[name] == nil {
		hash := fnv.New64()
		hash.Write([]byte(name))
		r := rand.New(rand.NewPCG(d.seed, hash.Sum64()))
		size := 1000.0
		if query == "" {
			size *= math.Pow(200, r.Float64()) // 1 KB to 200 KB
		}
		doc := &restlessDocument{name: name, rand: r, tagged: r.IntN(2) == 0, between: time.Second/2 + time.Duration(r.IntN(3000))*time.Millisecond}
		for len(doc.items) == 0 || len(doc.items) < int(size/averageItem) {
			doc.insertLocked()
		}
		doc.stable = (len(doc.items) + 1) / 2
		doc.version, doc.part = 1, 1
		d.byName[name] = doc
	}
	return d.byName[name]
}

func (d *restlessDocuments) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	doc := d.document(r.URL.Path, r.Header.Get("X-Owner"), r.URL.Query().Get("q"))
	calm := d.calm.Load()
	if r.Method == http.MethodPost {
		if !calm {
			doc.change()
		}
		w.WriteHeader(http.StatusNoContent)
		return
	}
	text, tag, fault := doc.answer(calm, d.broken)
	if fault != nil {
		d.faults.Add(1)
		// A request of a client's own has no timeout.
		ctx, cancel := context.WithTimeout(r.Context(), 2*time.Second)
		defer cancel()
		fault(w, r.WithContext(ctx))
		return
	}
	w.Header().Set("Content-Type", "application/json")
	if doc.tagged {
		w.Header().Set("ETag", tag)
		if r.Header.Get("If-None-Match") == tag {
			w.WriteHeader(http.StatusNotModified)
			return
		}
	}
	w.Write(text)
}

// answer returns the document as it is now, or what is wrong now.
func (d *restlessDocument) answer(calm bool, broken []http.HandlerFunc) (text []byte, tag string, fault http.HandlerFunc) {
	d.mu.Lock()
	defer d.mu.Unlock()
	now := time.Now()
	if !calm {
		if now.Before(d.faultEnd) {
			return nil, "", d.fault
		}
		if d.rand.IntN(40) == 0 {
			d.fault = broken[d.rand.IntN(len(broken))]
			d.faultEnd = now.Add(time.Duration(d.rand.IntN(1500)) * time.Millisecond)
			return nil, "", d.fault
		}
		if now.After(d.changeAt) {
			d.changeLocked()
			d.changeAt = now.Add(time.Duration(float64(d.between) * d.rand.ExpFloat64()))
		}
	}
	if d.text == nil {
		d.text = d.textLocked()
	}
	return d.text, fmt.Sprintf(`"%d"`, d.version), nil
}

func (d *restlessDocument) change() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.changeLocked()
}

func (d *restlessDocument) changeLocked() {
	d.version++
	d.text = nil
	if d.rand.IntN(3) == 0 {
		d.part = d.version
	}
	if d.rand.IntN(4) == 0 {
		return
	}
	for range 1 + d.rand.IntN(3) {
		item := &d.items[d.rand.IntN(len(d.items))]
		item.version, item.value = d.version, d.rand.IntN(1e6)
	}
	switch i, j := d.rand.IntN(len(d.items)), d.rand.IntN(len(d.items)); d.rand.IntN(6) {
	case 0:
		d.items[i], d.items[j] = d.items[j], d.items[i]
	case 1: // as many come as go
		if d.items[i].id >= d.stable {
			d.items = slices.Delete(d.items, i, i+1)
			d.insertLocked()
		}
	}
}

// averageItem is about how long an item is, in bytes.
const averageItem = 450

func (d *restlessDocument) insertLocked() {
	item := restlessItem{id: d.nextID, version: max(d.version, 1), value: d.rand.IntN(1e6), length: d.rand.IntN(len(filler))}
	d.items = slices.Insert(d.items, d.rand.IntN(len(d.items)+1), item)
	d.nextID++
}

func (d *restlessDocument) textLocked() []byte {
	stamp := func(version int) string { return fmt.Sprintf("@%d %s", version, d.name) }
	b := fmt.Appendf(nil, `{"stamp":%q,"total":%d,"part":{"stamp":%q,"note":%q},"items":[`, stamp(d.version), d.totalLocked(), stamp(d.part), filler)
	for i, item := range d.items {
		if i > 0 {
			b = append(b, ',')
		}
		b = fmt.Appendf(b, `{"id":%d,"stamp":%q,"value":%d,"text":%q}`, item.id, stamp(item.version), item.value, filler[:item.length])
	}
	return append(b, "]}"...)
}

func (d *restlessDocument) totalLocked() (total int) {
	for i, item := range d.items {
		total += (i + 1) * item.value
	}
	return total
}

// newest returns the version that changed a part last.
func (d *restlessDocument) newest(pointer string) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case pointer == "":
		return d.version
	case pointer == "/part":
		return d.part
	}
	i := slices.IndexFunc(d.items, func(item restlessItem) bool { return itemPointer(item.id) == pointer })
	return d.items[i].version
}

func itemPointer(id int) string { return fmt.Sprintf("/items/[id=%d]", id) }

// newestIn returns the newest version that text tells of, and whether it tells of this
// document only.
func (d *restlessDocument) newestIn(text string) (newest int, err error) {
	for rest := text; ; {
		_, after, found := strings.Cut(rest, `"@`)
		if !found {
			break
		}
		number, name, _ := strings.Cut(after, " ")
		if rest = name; !strings.HasPrefix(name, d.name+`"`) {
			return 0, fmt.Errorf("%.60q is in a text about %q", after, d.name)
		}
		version, err := strconv.Atoi(number)
		if err != nil {
			return 0, err
		}
		newest = max(newest, version)
	}
	if newest == 0 {
		return 0, fmt.Errorf("%.200q tells of no version", text)
	}
	return newest, nil
}
