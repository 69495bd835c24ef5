package jsondiff

import "bytes"

// A Differ compares documents. The zero value is ready to use, by any number of
// goroutines.
type Differ struct {
	// Keys tell the items of arrays apart; the first one that is for an array counts.
	// For arrays that none is given for, [DefaultKey] is tried.
	Keys []Key

	// Worth, if any, says whether a patch of so many operations and bytes costs less
	// than the whole document of size bytes. A patch that grows beyond that is given up.
	Worth func(operations, bytes, size int) bool

	// Merge makes patches that [Patch.Merge] can write: arrays are replaced as a
	// whole.
	Merge bool
}

// Key names the member that tells the items of an array apart.
type Key struct {
	Pointer string // where the array is, as a pattern (see [Match]), "" for the root
	Member  string
}

// DefaultKey is the member that identifies the items of an array for which no
// [Key] is given, provided that each item has one and no two have the same.
const DefaultKey = "id"

// Diff makes a document of text, which must not be changed afterwards, and a patch
// that makes it out of old. Where the bytes are the same, it returns old itself. A nil
// patch says that the whole document costs less. Errors are those of [Parse].
func (c *Differ) Diff(old *Document, text []byte) (*Document, *Patch, error) {
	if bytes.Equal(old.polled, text) {
		return old, noPatch, nil
	}
	if len(text) > maxLen {
		return nil, nil, errLength
	}
	// Where the old text was not compact, the new one hardly is.
	d := differ{Differ: c, scanner: scanner{text: trim(text)}, old: old.text}
	if len(old.text) != len(trim(old.polled)) {
		d.text = compact(d.text)
	}
	index := d.document(old.index)
	if d.err == nil && !d.repeated {
		return &Document{text, d.text, index}, d.finished(), nil
	}
	new, err := Parse(text)
	if err != nil {
		return nil, nil, err
	}
	d = differ{Differ: c, scanner: scanner{text: new.text}, old: old.text}
	d.document(old.index)
	if d.err != nil || d.repeated {
		return new, nil, nil // different names with the same hash
	}
	return new, d.finished(), nil
}

var noPatch = new(Patch)

// differ compares one old text with a new one, which it checks and indexes by means
// of its scanner.
type differ struct {
	*Differ
	scanner
	old       []byte
	stretches [2]stretch // the one that ends last, and another
	path      pointer    // of the value at hand
	patch     Patch
	effort    int      // bytes read to find out about changes
	trying    bool     // a hunk is written to see how that looks
	room      struct { // enough for small patches
		ops   [8]operation
		paths [256]byte
		path  [64]byte
	}
}

func (d *differ) document(index *node) *node {
	d.patch = Patch{text: d.text, ops: d.room.ops[:0], paths: d.room.paths[:0]}
	d.path = d.room.path[:0]
	if index != nil {
		d.marks = make([]mark, 0, index.cost/markSize+8)
	}
	_, q, n := d.value(0, 0, index, MaxDepth)
	if q != len(d.text) {
		d.fail(errSyntax)
	}
	return n
}

// finished returns the patch, or nil where it is not worth it.
func (d *differ) finished() *Patch {
	if d.full() {
		return nil
	}
	return &d.patch
}

// full reports whether the patch is not worth it any more. From then on the new text
// is only read.
func (d *differ) full() bool {
	return d.Worth != nil && (d.effort > 1<<20+patience*max(len(d.old), len(d.text)) || !d.Worth(len(d.patch.ops), d.patch.size, len(d.text)))
}

// patience is how many times the texts may be read to find out about changes. Only
// those made for it take more, with changes below hundreds of levels.
const patience = 8

// delimited reports whether a value that ends at q may end there: 12 is not all of 123.
func (d *differ) delimited(q int) bool {
	return q >= len(d.text) || d.text[q] == ',' || d.text[q] == ']' || d.text[q] == '}'
}

// value writes what makes the new value at p out of the old one at s, and returns
// where both end, with the index of the new one.
func (d *differ) value(s, p int, index *node, levels int) (e, q int, n *node) {
	c := d.old[s]
	if p >= len(d.text) || d.text[p] != c || c != '{' && c != '[' || levels == 0 || index == nil && d.full() {
		e = endOf(d.old, s, index, len(d.old))
		q, n = d.scanner.value(p, levels)
		if d.err == nil && !d.full() && !equalScalars(d.old[s:e], d.text[p:q]) {
			d.patch.add(opReplace, d.path, p, q)
		}
		return e, q, n
	}
	before := d.patch
	if c == '{' {
		e, q, n = d.object(s, p, index, levels)
	} else {
		e, q, n = d.array(s, p, index, levels)
	}
	if d.err != nil || len(d.patch.ops) == len(before.ops) || d.Merge && c == '{' {
		return e, q, n
	}
	whole := operationLen(opReplace, d.path, q-p)
	better := d.patch.size-before.size > whole || d.Merge
	if d.full() {
		better = d.Worth(len(before.ops)+1, before.size+whole, len(d.text))
	}
	if better {
		d.patch.cut(before)
		d.patch.add(opReplace, d.path, p, q)
	}
	return e, q, n
}

func (d *differ) object(s, p int, index *node, levels int) (e, q int, n *node) {
	old, o, q := childrenOf(d.old, s, index), d.open(p), p+1
	for d.err == nil {
		var end int
		q, end = d.advance(&old, &o, q)
		if old.ended() {
			break
		}
		from := old.value()
		if d.equalUpTo(old.at, q) < from { // another name
			break
		}
		name, sub := q, old.sub()
		q += from - old.at
		if end == 0 {
			length := len(d.path)
			d.path = d.path.name(unescape(d.old[old.at : from-len(":")]))
			end, q, sub = d.value(from, q, sub, levels-1)
			d.path = d.path[:length]
		} else {
			q += end - from
		}
		d.child(&o, name, sub)
		old.next(end)
		q = d.next(q, '}')
	}
	if d.err == nil && !(d.ends(q, '}') && old.ended()) {
		q = d.members(&old, &o, q, levels)
	}
	q, n = d.close(&o, q+1)
	return old.at + 1, q, n
}

// advance goes on to the first child that has changed, or behind which something has,
// and returns its place in the new text; in the latter case also where it ends, else 0.
func (d *differ) advance(old *children, o *opened, q int) (at, end int) {
	to, shift := d.equalUpTo(old.at, q), q-old.at
	for !old.ended() {
		if next := old.nextMark(); next <= to {
			if at := old.at + shift; next+shift-o.last > 2*spacing && at > o.last { // too far off
				d.marks = append(d.marks, mark{uint32(at - o.start), uint32(o.number), old.sub()})
				o.last = at
			}
			number := old.number
			d.children(o, old.leap(to), shift-o.start+old.start, o.number-number)
			o.number += old.number - number
		}
		value, sub := old.value(), old.sub()
		if value >= to {
			break
		}
		end := endOf(d.old, value, sub, to)
		if sub == nil {
			d.effort += end - value
		}
		if end == to && d.delimited(end+shift) {
			return old.at + shift, end
		}
		if end >= to {
			break
		}
		d.child(o, old.at+shift, sub)
		old.next(end)
	}
	return old.at + shift, 0
}
