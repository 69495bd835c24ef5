package jsondiff

// A Patch is what makes one document out of another.
type Patch struct {
	text  []byte // the new document
	ops   []operation
	paths []byte
	size  int // of the JSON Patch, with a comma after each operation, without the brackets
}

// An operation adds, removes or replaces what a pointer names.
type operation struct {
	op    op
	path  span // in paths
	value span // in text
}

type op byte

const (
	opAdd op = iota
	opRemove
	opReplace
)

// opening is how operations begin.
var opening = [...]string{
	opAdd:     `{"op":"add","path":"`,
	opRemove:  `{"op":"remove","path":"`,
	opReplace: `{"op":"replace","path":"`,
}

const inside = `","value":` // between path and value

// Len returns the number of operations: 0 where the documents are equal.
func (p *Patch) Len() int { return len(p.ops) }

// Bytes returns the patch as JSON Patch (RFC 6902).
func (p *Patch) Bytes() []byte {
	b := append(make([]byte, 0, p.size+len("[]")), '[')
	for i, o := range p.ops {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(append(b, opening[o.op]...), o.path.of(p.paths)...)
		if o.op != opRemove {
			b = append(append(b, inside...), o.value.of(p.text)...)
		} else {
			b = append(b, '"')
		}
		b = append(b, '}')
	}
	return append(b, ']')
}

// Whole returns the JSON Patch that replaces any document by this one, given as
// [Document.Bytes].
func Whole(document []byte) []byte {
	p := Patch{text: document}
	p.add(opReplace, nil, 0, len(document))
	return p.Bytes()
}

// add appends an operation with the value text[from:to].
func (p *Patch) add(op op, path pointer, from, to int) {
	start := len(p.paths)
	p.paths = append(p.paths, path...)
	p.ops = append(p.ops, operation{op, span{uint32(start), uint32(len(p.paths))}, span{uint32(from), uint32(to)}})
	p.size += operationLen(op, path, to-from)
}

// operationLen returns how many bytes an operation takes, with a comma.
func operationLen(op op, path pointer, value int) int {
	n := len(opening[op]) + len(path) + len("},")
	if op == opRemove {
		return n + len(`"`)
	}
	return n + len(inside) + value
}

// cut drops the operations that were added since p was before.
func (p *Patch) cut(before Patch) {
	p.ops, p.paths, p.size = p.ops[:len(before.ops)], p.paths[:len(before.paths)], before.size
}
