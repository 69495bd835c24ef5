package jsondiff

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
)

// Find returns the value that a pointer leads to, as it stands in [Document.Bytes]; ok
// is false where it leads nowhere. Apart from its number (RFC 6901 §4) an item can be
// told by one of its members: [id=42] is the first one whose member id is the number 42
// or the string "42", as it is written but for escapes.
func (d *Document) Find(pointer string) (value []byte, ok bool) {
	at, index := 0, d.index
	for _, token := range tokens(pointer) {
		var c children
		switch d.text[at] {
		case '{':
			c = childrenOf(d.text, at, index)
			ok = c.findMember(token)
		case '[':
			c = childrenOf(d.text, at, index)
			if name, value, is := itemByMember(token); is {
				ok = c.findItem(name, value)
			} else {
				ok = c.findNumber(token)
			}
		default:
			ok = false
		}
		if !ok {
			return nil, false
		}
		at, index = c.value(), c.sub()
	}
	return d.text[at:endOf(d.text, at, index, len(d.text))], true
}

// itemByMember reads a token such as [id=42].
func itemByMember(token string) (name, value string, ok bool) {
	if len(token) < 2 || token[0] != '[' || token[len(token)-1] != ']' {
		return "", "", false
	}
	return strings.Cut(token[1:len(token)-1], "=")
}

// findMember goes to the member of that name.
func (c *children) findMember(name string) bool {
	for !c.ended() {
		value := c.value()
		if string(unescape(c.text[c.at:value-len(":")])) == name {
			return true
		}
		c.next(c.end(value))
	}
	return false
}

// findNumber goes to the item of that number.
func (c *children) findNumber(token string) bool {
	number, err := strconv.Atoi(token)
	if err != nil || number < 0 || strconv.Itoa(number) != token { // no leading zero
		return false
	}
	marks := c.index.marks[c.ahead:]
	n, _ := slices.BinarySearchFunc(marks, number+1, func(m mark, number int) int { return cmp.Compare(int(m.number), number) })
	if n > 0 {
		c.ahead += n
		c.at, c.number = c.start+int(marks[n-1].offset), int(marks[n-1].number)
	}
	for !c.ended() && c.number < number {
		c.next(c.end(c.at))
	}
	return !c.ended()
}

// findItem goes to the first item with a member of that name and value.
func (c *children) findItem(name, value string) bool {
	for !c.ended() && !c.itemHas(name, value) {
		c.next(c.end(c.at))
	}
	return !c.ended()
}

// itemHas reports whether the item at hand has a member of that name and value.
func (c *children) itemHas(name, value string) bool {
	if c.text[c.at] != '{' {
		return false
	}
	members := childrenOf(c.text, c.at, c.sub())
	return members.findMember(name) && spells(c.text[members.value():members.end(members.value())], value)
}

// spells reports whether a value is a scalar that is written like that; of a string the
// characters count.
func spells(value []byte, text string) bool {
	switch value[0] {
	case '{', '[':
		return false
	case '"':
		value = unescape(value)
	}
	return string(value) == text
}
