package jsondiff

func (d *differ) array(s, p int, index *node, levels int) (e, q int, n *node) {
	old, o, q := childrenOf(d.old, s, index), d.open(p), p+1
	for d.err == nil {
		var end int
		q, end = d.advance(&old, &o, q)
		ended := d.ends(q, ']')
		if old.ended() && ended {
			break
		}
		at, sub := q, old.sub()
		switch {
		case end != 0:
			q += end - old.at
		case sub != nil && sub.size > old.index.size/2 && !ended && d.text[q] == d.old[old.at]:
			// It is most of the array, so what else could it have become?
			end = old.end(old.at)
			q, sub = d.item(o.number, old.at, q, sub, levels)
		default:
			q = d.hunk(&old, &o, q, levels)
			continue
		}
		d.child(&o, at, sub)
		old.next(end)
		q = d.next(q, ']')
	}
	q, n = d.close(&o, q+1)
	return old.at + 1, q, n
}

// item writes what makes the new item at q out of the old one at s.
func (d *differ) item(number, s, q int, index *node, levels int) (end int, n *node) {
	length := len(d.path)
	d.path = d.path.item(number)
	_, end, n = d.value(s, q, index, levels-1)
	d.path = d.path[:length]
	return end, n
}
