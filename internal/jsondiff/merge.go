package jsondiff

import "bytes"

// Merge returns the patch, which must be one of a [Differ] with Merge, as JSON Merge
// Patch (RFC 7396). It returns false where that cannot be said: null would remove the
// member that shall be null, be it one that is added or inside one.
func (p *Patch) Merge() (text []byte, ok bool) {
	if len(p.ops) == 1 && p.ops[0].path.from == p.ops[0].path.to { // the root
		value := p.ops[0].value.of(p.text)
		return value, !holdsNull(value)
	}
	text = []byte{'{'}
	var object []byte // the pointer to the innermost object that text is in
	for _, o := range p.ops {
		path := o.path.of(p.paths)
		for !bytes.HasPrefix(path, object) || path[len(object)] != '/' {
			text = append(text, '}')
			object = object[:bytes.LastIndexByte(object, '/')]
		}
		for {
			if text[len(text)-1] != '{' {
				text = append(text, ',')
			}
			name := path[len(object)+1:]
			inner := bytes.IndexByte(name, '/')
			if inner < 0 {
				text = appendName(text, name)
				break
			}
			text = append(appendName(text, name[:inner]), '{')
			object = path[:len(object)+1+inner]
		}
		value := []byte("null")
		if o.op != opRemove {
			if value = o.value.of(p.text); value[0] == 'n' || holdsNull(value) {
				return nil, false
			}
		}
		text = append(text, value...)
	}
	for range bytes.Count(object, []byte{'/'}) + 1 {
		text = append(text, '}')
	}
	return text, true
}

// appendName appends a reference token of a [pointer] as the name of a member.
func appendName(text, token []byte) []byte {
	text = append(text, '"')
	for i := 0; i < len(token); i++ {
		c := token[i]
		if c == '~' { // RFC 6901 §4
			i++
			c = "~/"[token[i]-'0']
		}
		text = append(text, c)
	}
	return append(text, `":`...)
}

// holdsNull reports whether a value is an object with a member that is null, or that is
// such an object. In arrays null may stand (RFC 7396 §2).
func holdsNull(value []byte) bool {
	_, found := findNull(value, 0)
	return found
}

// findNull looks for such a member of the value at i, and returns where that ends.
func findNull(text []byte, i int) (end int, found bool) {
	if text[i] != '{' {
		return skip(text, i), false
	}
	c := childrenOf(text, i, nil)
	for !c.ended() {
		from := c.value()
		end, found := findNull(text, from)
		if found || text[from] == 'n' {
			return end, true
		}
		c.next(end)
	}
	return c.at + 1, false
}
