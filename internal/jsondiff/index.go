package jsondiff

import (
	"cmp"
	"math"
	"slices"
)

// A node is the index of one large container: where some of its children start.
// Offsets count from the container's own start, so that documents share the nodes
// of what did not change, wherever it stands.
type node struct {
	marks []mark
	size  uint32 // of the container's text
	cost  uint32 // bytes of memory, of the nodes inside too
}

// A mark says where a child starts. That of an object starts with its name.
type mark struct {
	offset uint32
	number uint32 // of the child, from 0
	sub    *node  // of the child's value, nil where that is small
}

const (
	nodeSize = 32 // bytes of memory
	markSize = 16
)

// Variables only so that tests can make small documents have large indices.
var (
	// spacing is how far apart marks are: closer, and the index grows; farther, and
	// finding a child takes longer.
	spacing = 1024

	// indexed is how long the text of a container with a node is at least.
	indexed = 8192

	// share is the part of a container that its index may measure: one share-th.
	share = 9
)

// opened is a container whose children are being read.
type opened struct {
	start  int // of the container
	marks  int // of the containers around it, in scanner.marks
	last   int // where the child with the last mark starts
	number int // of the next child
}

func (s *scanner) open(start int) opened {
	return opened{start: start, marks: len(s.marks), last: start}
}

// child notes the next child, which starts at i.
func (s *scanner) child(o *opened, i int, sub *node) {
	if sub != nil || i-o.last >= spacing {
		s.marks = append(s.marks, mark{uint32(i - o.start), uint32(o.number), sub})
		o.last = i
	}
	o.number++
}

// children notes the children that marks stand for, the rest of which are moved by
// so many bytes and places. One between two that are close enough is left out.
func (s *scanner) children(o *opened, marks []mark, bytes, places int) {
	for i, m := range marks {
		at := o.start + int(m.offset) + bytes
		if m.sub == nil && i+1 < len(marks) && o.start+int(marks[i+1].offset)+bytes-o.last < spacing {
			continue
		}
		s.marks = append(s.marks, mark{uint32(at - o.start), uint32(int(m.number) + places), m.sub})
		o.last = at
	}
}

// close returns end, where the container ends, and its index, if it has one.
func (s *scanner) close(o *opened, end int) (int, *node) {
	marks := s.marks[o.marks:]
	s.marks = s.marks[:o.marks]
	if s.err != nil {
		return len(s.text), nil
	}
	size := end - o.start
	if size < indexed {
		return end, nil
	}
	n := &node{marks: marks, size: uint32(size)}
	if len(marks) > 32 && len(marks) > o.marks && cap(marks) < len(marks)*9/8 { // it may keep the memory
		s.marks = append(make([]mark, 0, o.marks+8), s.marks...)
	} else {
		n.marks = slices.Clone(marks)
	}
	if n.cost = n.measure(); int(n.cost) > size/share {
		// Many levels and little in each: what is inside is found without an index.
		for i := range n.marks {
			n.marks[i].sub = nil
		}
		n.cost = n.measure()
	}
	return end, n
}

func (n *node) measure() uint32 {
	cost := nodeSize + uint32(len(n.marks))*markSize
	for _, m := range n.marks {
		if m.sub != nil {
			cost += m.sub.cost
		}
	}
	return cost
}

// children walks over the children of a container in a checked text.
type children struct {
	text   []byte
	start  int // of the container
	index  *node
	at     int // where the current child starts, or the closing bracket stands
	number int // of that child
	ahead  int // marks up to at
}

func childrenOf(text []byte, start int, index *node) children {
	if index == nil {
		index = noIndex
	}
	c := children{text: text, start: start, index: index, at: start + 1}
	if c.nextMark() == c.at {
		c.ahead++
	}
	return c
}

var noIndex = new(node)

func (c *children) ended() bool { return c.text[c.at] == ']' || c.text[c.at] == '}' }

// sub returns the index of the current child's value.
func (c *children) sub() *node {
	if c.ahead > 0 && c.start+int(c.index.marks[c.ahead-1].offset) == c.at {
		return c.index.marks[c.ahead-1].sub
	}
	return nil
}

// value returns where the value of the current child starts.
func (c *children) value() int {
	if c.text[c.start] == '{' {
		return skipString(c.text, c.at) + len(":")
	}
	return c.at
}

// end returns where the current child ends, given where its value starts.
func (c *children) end(value int) int { return endOf(c.text, value, c.sub(), len(c.text)) }

// next goes to the next child, given the end of the current one.
func (c *children) next(end int) {
	c.at = end
	if c.text[end] == ',' {
		c.at++
	}
	c.number++
	for c.nextMark() <= c.at {
		c.ahead++
	}
}

// nextMark returns where the next child with a mark starts.
func (c *children) nextMark() int {
	if c.ahead < len(c.index.marks) {
		return c.start + int(c.index.marks[c.ahead].offset)
	}
	return math.MaxInt
}

// leap goes to the last child with a mark at to or before, and returns the marks of
// those that it passed.
func (c *children) leap(to int) []mark {
	rest := c.index.marks[c.ahead:]
	n, _ := slices.BinarySearchFunc(rest, to-c.start+1, func(m mark, offset int) int {
		return cmp.Compare(int(m.offset), offset)
	})
	c.ahead += n
	c.at, c.number = c.start+int(rest[n-1].offset), int(rest[n-1].number)
	return rest[:n-1]
}
