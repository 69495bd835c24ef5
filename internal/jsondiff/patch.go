package jsondiff

import "unicode/utf8"

// Patch is a JSON Patch (RFC 6902).
type Patch struct {
	list []byte // operations, with a comma after each
	ops  int
}

// Len returns the number of operations: 0 where the documents are equal.
func (p *Patch) Len() int { return p.ops }

// Bytes returns the patch as JSON text.
func (p *Patch) Bytes() []byte {
	text := make([]byte, 0, len(p.list)+len("[]"))
	text = append(text, '[')
	if p.ops > 0 {
		text = append(text, p.list[:len(p.list)-len(",")]...)
	}
	return append(text, ']')
}

// Whole returns the patch that replaces any document by this one, given as
// [Document.Bytes].
func Whole(document []byte) []byte {
	p := Patch{list: make([]byte, 0, replaceLen(nil, document))}
	p.replace(nil, document)
	return p.Bytes()
}

func (p *Patch) add(path pointer, value []byte) { p.operation("add", path, value) }

func (p *Patch) replace(path pointer, value []byte) { p.operation("replace", path, value) }

func (p *Patch) remove(path pointer) { p.operation("remove", path, nil) }

func (p *Patch) operation(op string, path pointer, value []byte) {
	p.ops++
	p.list = append(p.list, `{"op":"`...)
	p.list = append(p.list, op...)
	p.list = append(p.list, `","path":"`...)
	p.list = append(p.list, path...)
	p.list = append(p.list, '"')
	if value != nil {
		p.list = append(p.list, `,"value":`...)
		p.list = append(p.list, value...)
	}
	p.list = append(p.list, "},"...)
}

// replaceLen is how many bytes [Patch.replace] would write.
func replaceLen(path pointer, value []byte) int {
	return len(`{"op":"replace","path":"","value":},`) + len(path) + len(value)
}

// pointer is a JSON Pointer (RFC 6901), escaped as in a JSON string.
type pointer []byte

// child returns the pointer to a member. It may share memory with p: use it
// before p is extended again.
func (p pointer) child(name string) pointer {
	const hex = "0123456789abcdef"
	p = append(p, '/')
	for i := 0; i < len(name); i++ {
		switch c := name[i]; {
		case c == '~': // RFC 6901 §3
			p = append(p, "~0"...)
		case c == '/':
			p = append(p, "~1"...)
		case c == '"', c == '\\':
			p = append(p, '\\', c)
		case c < ' ':
			p = append(p, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
		case c == 0xed && i+2 < len(name) && !utf8.ValidString(name[i:i+3]):
			// What unescape made of a surrogate without its half.
			r := uint16(c&15)<<12 | uint16(name[i+1]&0x3f)<<6 | uint16(name[i+2]&0x3f)
			p = append(p, '\\', 'u', hex[r>>12], hex[r>>8&15], hex[r>>4&15], hex[r&15])
			i += 2
		default:
			p = append(p, c)
		}
	}
	return p
}
