package jsondiff

import (
	"math"
	"strconv"
)

// Key names the member that tells the items of an array apart.
type Key struct {
	Pointer string // where the array is (RFC 6901), "" for the root
	Member  string
}

// DefaultKey is the member that identifies the items of an array for which no
// [Key] is given, provided that each item has one and no two have the same.
const DefaultKey = "id"

// Diff returns the patch that makes new out of old.
func Diff(old, new *Document, keys []Key) *Patch {
	d := differ{keys: make(map[string]string, len(keys)), limit: math.MaxInt}
	for _, k := range keys {
		d.keys[escapedPointer(k.Pointer)] = k.Member
	}
	a, _ := parse(old.text)
	b, _ := parse(new.text)
	d.value(nil, &a, &b)
	return &d.patch
}

// escapedPointer spells a pointer as [pointer.child] does.
func escapedPointer(s string) string {
	var p pointer
	for _, token := range splitPointer(s) {
		p = p.child(token)
	}
	return string(p)
}

// differ writes one patch.
type differ struct {
	patch Patch
	keys  map[string]string // by pointer
	limit int               // how long the patch may become before what is at hand is said whole
}

// value writes what makes b out of a, at path.
func (d *differ) value(path pointer, a, b *value) {
	if equal(a, b) {
		return
	}
	if a.kind != b.kind || a.kind == scalar || a.kind == text {
		d.patch.replace(path, b.text)
		return
	}
	before, limit := d.patch, d.limit
	d.limit = min(limit, len(before.list)+replaceLen(path, b.text))
	if a.kind == object {
		d.object(path, a, b)
	} else {
		d.array(path, a.items, b.items)
	}
	// A value changed in so many places is shorter said whole.
	if d.full() {
		d.patch.list, d.patch.ops = d.patch.list[:len(before.list)], before.ops
		d.patch.replace(path, b.text)
	}
	d.limit = limit
}

// full reports whether the patch is longer than what it is about. Whoever writes
// many operations asks after each, so that no document makes a patch much longer
// than itself.
func (d *differ) full() bool { return len(d.patch.list) > d.limit }

func (d *differ) object(path pointer, a, b *value) {
	inNew, inOld := b.finder(), a.finder()
	for i := 0; i < len(a.members) && !d.full(); i++ {
		if name := a.members[i].name; inNew(i, name) == nil {
			d.patch.remove(path.child(name))
		}
	}
	for i := 0; i < len(b.members) && !d.full(); i++ {
		name, v := b.members[i].name, &b.members[i].value
		if old := inOld(i, name); old != nil {
			d.value(path.child(name), old, v)
		} else {
			d.patch.add(path.child(name), v.text)
		}
	}
}

// array writes the edit script that [align] finds, from left to right: at is the
// index in the array as patched so far, and all items before it are final.
func (d *differ) array(path pointer, a, b []value) {
	item := func(at int) pointer { return path.child(strconv.Itoa(at)) }
	i, at := 0, 0
	for _, kept := range append(d.align(path, a, b), pair{len(a), len(b)}) {
		for i < kept.old && at < kept.new && !d.full() { // neither is kept: one becomes the other
			d.value(item(at), &a[i], &b[at])
			i, at = i+1, at+1
		}
		for ; i < kept.old && !d.full(); i++ {
			d.patch.remove(item(at))
		}
		for ; at < kept.new && !d.full(); at++ {
			d.patch.add(item(at), b[at].text)
		}
		if d.full() {
			return
		}
		if i < len(a) && at < len(b) {
			d.value(item(at), &a[i], &b[at])
		}
		i, at = i+1, at+1
	}
}
