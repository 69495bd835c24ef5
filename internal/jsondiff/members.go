package jsondiff

import "bytes"

// A member is what is known of a member of an object.
type member struct {
	hash  uint64 // of the name
	name  span   // with its quotation marks
	value span
	index *node
	other int // its place among those of the other text, or none
}

const none = -1

// members writes what becomes of the members of an object whose names are not the
// same one by one: those from old on, and those from q on in the new text. It
// returns where the closing bracket stands there.
func (d *differ) members(old *children, o *opened, q, levels int) int {
	var room [2][16]member
	olds, news := room[0][:0], room[1][:0]
	rest := old.at
	for !old.ended() {
		from := old.value()
		to := old.end(from)
		d.effort += to - from
		name := span{uint32(old.at), uint32(from - len(":"))}
		olds = append(olds, member{hashString(name.of(d.old)), name, span{uint32(from), uint32(to)}, old.sub(), none})
		old.next(to)
	}
	for !d.ends(q, '}') {
		from := d.name(q)
		to, index := d.scanner.value(from, levels-1)
		if d.err != nil {
			break
		}
		d.effort += to - from
		name := span{uint32(q), uint32(from - len(":"))}
		news = append(news, member{hashString(name.of(d.text)), name, span{uint32(from), uint32(to)}, index, none})
		d.child(o, q, index)
		q = d.next(to, '}')
	}
	if d.err != nil {
		return q
	}
	added := d.match(olds, news)
	hashes := make([]uint64, 0, 32)
	for i := range news {
		hashes = append(hashes, news[i].hash)
	}
	if added { // none of them may be among the names before
		for before := childrenOf(d.old, old.start, old.index); before.at < rest; {
			from := before.value()
			hashes = append(hashes, hashString(d.old[before.at:from-len(":")]))
			before.next(before.end(from))
		}
	}
	if repeated(hashes) {
		d.repeated = true
		return q
	}

	length := len(d.path)
	for i := 0; i < len(olds) && !d.full(); i++ {
		if olds[i].other == none {
			d.patch.add(opRemove, d.path.name(unescape(olds[i].name.of(d.old))), 0, 0)
		}
	}
	for i := 0; i < len(news) && !d.full(); i++ {
		m := &news[i]
		if m.other == none {
			d.patch.add(opAdd, d.path.name(unescape(m.name.of(d.text))), int(m.value.from), int(m.value.to))
			continue
		}
		was := &olds[m.other]
		if !bytes.Equal(was.value.of(d.old), m.value.of(d.text)) {
			d.path = d.path.name(unescape(m.name.of(d.text)))
			d.value(int(was.value.from), int(m.value.from), was.index, levels-1)
			d.path = d.path[:length]
		}
	}
	return q
}

// match finds the members of the same name, and reports whether there are new ones
// that no old one has the name of.
func (d *differ) match(olds, news []member) (added bool) {
	const few = 16
	var places map[uint64]int
	if len(olds) > few {
		places = make(map[uint64]int, len(olds))
		for i := range olds {
			places[olds[i].hash] = i
		}
	}
	for k := range news {
		m, i := &news[k], none
		if places != nil {
			if at, ok := places[m.hash]; ok {
				i = at
			}
		} else {
			for at := range olds {
				if olds[at].hash == m.hash {
					i = at
					break
				}
			}
		}
		if i == none || !equalStrings(olds[i].name.of(d.old), m.name.of(d.text)) {
			added = true
			continue
		}
		m.other, olds[i].other = i, k
	}
	return added
}
