package jsondiff

import "bytes"

// A hunk is a part of two arrays in which they differ, up to where they meet again.
type hunk struct {
	*differ
	levels     int // of the arrays
	number     int // of the first item, in the new one
	olds, news []item
	old        children // what follows olds
	q          int      // where the item after news starts, or the closing bracket stands
}

// An item is the place of an item of an array, and its index.
type item struct {
	from, to int
	index    *node
}

func (it *item) len() int { return it.to - it.from }

const (
	// window is how many items of both arrays are read to find where they meet.
	window = 24

	// most is how many are read at most, where they do not meet in a window.
	most = 1 << 16

	// enough is how many bytes are the same where arrays meet, unless they end there.
	enough = 32
)

// hunk writes what becomes of the items from old and q on, up to where the arrays
// meet again. It goes there with old and returns where that is in the new text.
func (d *differ) hunk(old *children, o *opened, q, levels int) int {
	var room [2][4]item
	h := hunk{differ: d, levels: levels, number: o.number, olds: room[0][:0], news: room[1][:0], old: *old, q: q}
	met := h.read(window)
	switch {
	case d.err != nil:
		return len(d.text)
	case !d.full() && h.inPlace():
	case d.full():
		if !met {
			return h.readOn(old, o)
		}
	default:
		pairs := d.align(h.olds, h.news)
		if !met && len(pairs) < window/2 { // much is new, or in another place
			met = h.read(most)
			if d.err != nil {
				return len(d.text)
			}
			pairs = d.align(h.olds, h.news)
		}
		if !met {
			h.cutBehind(pairs)
		}
		h.edit(pairs)
	}
	for _, n := range h.news {
		d.child(o, n.from, n.index)
	}
	for _, it := range h.olds {
		old.next(it.to)
	}
	return h.q
}

// read reads items until the arrays meet, or so many of both, or very many of one.
func (h *hunk) read(limit int) (met bool) {
	for h.err == nil && (len(h.olds) < limit || len(h.news) < limit) && max(len(h.olds), len(h.news)) < 2*most {
		x, y := len(h.olds), len(h.news)
		h.step()
		if h.err == nil && h.meet(x, y) {
			return true
		}
	}
	return false
}

// readOn reads all that follows of both arrays.
func (h *hunk) readOn(old *children, o *opened) int {
	h.q = h.newAt(0)
	for !h.ends(h.q, ']') {
		end, index := h.scanner.value(h.q, h.levels-1)
		h.child(o, h.q, index)
		h.q = h.next(end, ']')
	}
	old.at = endOf(old.text, old.start, old.index, len(old.text)) - 1
	return h.q
}

// step reads one more item of each array that has one.
func (h *hunk) step() {
	if !h.old.ended() {
		to := h.old.end(h.old.at)
		h.olds = append(h.olds, item{h.old.at, to, h.old.sub()})
		h.effort += to - h.old.at
		h.old.next(to)
	}
	if !h.ends(h.q, ']') {
		end, index := h.scanner.value(h.q, h.levels-1)
		h.news = append(h.news, item{h.q, end, index})
		h.effort += end - h.q
		h.q = h.next(end, ']')
	}
}

// meet looks for where the arrays meet: behind the items, or where one of the first of
// one array and the one read last of the other are, if there are more than x or y. If
// they do, it cuts the hunk there.
func (h *hunk) meet(x, y int) bool {
	if h.meets(len(h.olds), len(h.news)) {
		return true
	}
	if x < len(h.olds) {
		for k := range min(window, len(h.news)) {
			if h.olds[x].len() == h.news[k].len() && h.meets(x, k) {
				h.cut(x, k)
				return true
			}
		}
	}
	if y < len(h.news) {
		for i := range min(window, len(h.olds)) {
			if h.olds[i].len() == h.news[y].len() && h.meets(i, y) {
				h.cut(i, y)
				return true
			}
		}
	}
	return false
}

// meets reports whether the arrays go on alike after x and y items.
func (h *hunk) meets(x, y int) bool {
	old, q := h.oldAt(x), h.newAt(y)
	if old.ended() || h.text[q] == ']' {
		return old.ended() && h.text[q] == ']'
	}
	for start := q; q < len(h.text); {
		h.effort += 8 // about what a look costs
		from := old.at
		to, same := h.same(from, q, old.sub())
		if !same {
			return false
		}
		old.next(to)
		q += old.at - from
		if q-start >= enough {
			return true
		}
		if old.ended() {
			return q < len(h.text) && h.text[q] == ']'
		}
	}
	return false
}

// same reports whether the old value at s, with that index, stands at p in the new
// text too, and if so, where it ends.
func (d *differ) same(s, p int, index *node) (end int, same bool) {
	to := d.equalUpTo(s, p)
	end = endOf(d.old, s, index, to)
	return end, end <= to && d.delimited(end+p-s)
}

// oldAt returns what follows x items.
func (h *hunk) oldAt(x int) children {
	c := h.old
	if x < len(h.olds) {
		c.at = h.olds[x].from
	}
	return c
}

func (h *hunk) newAt(y int) int {
	if y < len(h.news) {
		return h.news[y].from
	}
	return h.q
}

// cut leaves x and y items in the hunk.
func (h *hunk) cut(x, y int) {
	h.q = h.newAt(y)
	h.olds, h.news = h.olds[:x], h.news[:y]
}

// cutBehind ends the hunk behind the last pair, or, if there is none, leaves as many
// items of both arrays, unless one of them has ended.
func (h *hunk) cutBehind(pairs []pair) {
	switch {
	case len(pairs) > 0:
		last := pairs[len(pairs)-1]
		h.cut(last.old+1, last.new+1)
	case !h.old.ended() && !h.ends(h.q, ']'):
		n := min(len(h.olds), len(h.news))
		h.cut(n, n)
	}
}

// inPlace writes the operations as if each item had become the one at its place, and
// reports whether that looks right. It does not where more than a few items have so
// little in common with the one before that they are shorter said whole.
func (h *hunk) inPlace() bool {
	n := len(h.news)
	switch {
	case n != len(h.olds) || n > 1 && h.trying: // a try within a try would double at each level
		return false
	case n == 1:
		h.change(0, 0)
		return true
	}
	h.trying = true
	before, done, whole := h.patch, 0, 0
	for ; done < n && whole <= n/4 && !h.full(); done++ {
		size := h.patch.size
		h.change(done, done)
		if h.patch.size-size >= operationLen(opReplace, h.path.item(h.number+done), h.news[done].len()) {
			whole++
		}
	}
	h.trying = false
	if whole > done/4 {
		h.patch.cut(before)
		return false
	}
	return true
}

// edit writes the operations from left to right: items before the one at hand are
// final, so every index is right at its turn.
func (h *hunk) edit(pairs []pair) {
	i, k := 0, 0
	for n := range len(pairs) + 1 {
		p := pair{len(h.olds), len(h.news)}
		if n < len(pairs) {
			p = pairs[n]
		}
		for ; i < p.old && k < p.new && !h.full(); i, k = i+1, k+1 {
			h.change(i, k) // no pair, but as good as any
		}
		for ; i < p.old && !h.full(); i++ {
			h.patch.add(opRemove, h.path.item(h.number+k), 0, 0)
		}
		for ; k < p.new && !h.full(); k++ {
			h.patch.add(opAdd, h.path.item(h.number+k), h.news[k].from, h.news[k].to)
		}
		if i < len(h.olds) && k < len(h.news) && !h.full() {
			h.change(i, k)
		}
		i, k = i+1, k+1
	}
}

func (h *hunk) change(i, k int) {
	was, is := h.olds[i], h.news[k]
	if !bytes.Equal(h.differ.old[was.from:was.to], h.text[is.from:is.to]) {
		h.item(h.number+k, was.from, is.from, was.index, h.levels)
	}
}
