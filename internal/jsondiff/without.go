package jsondiff

import "strconv"

// Without returns the text of the document without all values that one of the patterns
// stands for (see [Match]): members with their names, and items, so that those behind
// them move up. Where the root is one of them, null is left.
func (d *Document) Without(patterns []string) []byte {
	w := without{text: d.text, out: make([]byte, 0, len(d.text))}
	var all [][]string
	for _, p := range patterns {
		if p == "" {
			return []byte("null")
		}
		all = append(all, tokens(p))
	}
	w.value(0, d.index, all)
	return w.out
}

// without writes a document anew.
type without struct{ text, out []byte }

// value writes the value at i, less what the patterns stand for in it, and returns
// where it ends.
func (w *without) value(i int, index *node, patterns [][]string) (end int) {
	if c := w.text[i]; len(patterns) == 0 || c != '{' && c != '[' {
		end = endOf(w.text, i, index, len(w.text))
		w.out = append(w.out, w.text[i:end]...)
		return end
	}
	w.out = append(w.out, w.text[i])
	first := len(w.out)
	c := childrenOf(w.text, i, index)
	for !c.ended() {
		value := c.value()
		inside, whole := w.inside(&c, value, patterns)
		if whole {
			c.next(c.end(value))
			continue
		}
		if len(w.out) > first {
			w.out = append(w.out, ',')
		}
		w.out = append(w.out, w.text[c.at:value]...)
		c.next(w.value(value, c.sub(), inside))
	}
	w.out = append(w.out, w.text[c.at])
	return c.at + 1
}

// inside returns what the patterns stand for in the child at hand, or that they stand
// for all of it.
func (w *without) inside(c *children, value int, patterns [][]string) (inside [][]string, whole bool) {
	object := w.text[c.start] == '{'
	var token []byte
	if object {
		token = unescape(w.text[c.at : value-len(":")])
	} else {
		var room [20]byte
		token = strconv.AppendInt(room[:0], int64(c.number), 10)
	}
	for _, p := range patterns {
		if p[0] != "*" && p[0] != string(token) {
			name, value, ok := itemByMember(p[0])
			if !ok || object || !c.itemHas(name, value) {
				continue
			}
		}
		if len(p) == 1 {
			return nil, true
		}
		inside = append(inside, p[1:])
	}
	return inside, false
}
