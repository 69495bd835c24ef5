package pollsse

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"sync"

	"github.com/klauspost/compress/flate"
)

// gzipHeader begins a gzip stream without a name or a time (RFC 1952 §2.3).
var gzipHeader = []byte("\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff")

// gzipStream is what has to be known of one client's gzip stream to go on with it. All
// blocks end on a byte, so that those of a frame can be shared by all streams.
type gzipStream struct {
	crc  uint32 // of the text so far
	size uint32 // of the text so far, modulo 2^32
	last uint64 // the number of the frame that the text ends with, 0 for anything else
}

// frame returns the blocks that go on with f.
func (g *gzipStream) frame(f *frame) []byte {
	blocks := f.blocksAfter(g.last)
	g.count(f.text, f.number)
	return blocks
}

// text returns the blocks that go on with a text of this stream alone; it may be empty.
func (g *gzipStream) text(text []byte) []byte {
	if len(text) == 0 {
		return nil
	}
	g.count(text, 0)
	return appendStored(make([]byte, 0, storedLen(len(text))), text)
}

func (g *gzipStream) count(text []byte, last uint64) {
	g.crc = crc32.Update(g.crc, crc32.IEEETable, text)
	g.size += uint32(len(text))
	g.last = last
}

// trailer returns the end: the final block, which is empty, the checksum and the size.
func (g *gzipStream) trailer() []byte {
	const final = "\x03\x00" // one with fixed codes is the shortest (RFC 1951 §3.2.6)
	b := binary.LittleEndian.AppendUint32([]byte(final), g.crc)
	return binary.LittleEndian.AppendUint32(b, g.size)
}

const (
	// maxWindow is how far deflate can look back (RFC 1951 §2).
	maxWindow = 32 << 10
	// maxStored is the size of the largest stored block (RFC 1951 §3.2.4).
	maxStored    = 1<<16 - 1
	storedHeader = 5
)

// appendStored appends text to b as stored blocks, the last of which is empty: some
// decoders, Go's for one, hold back what came before until they see that.
func appendStored(b, text []byte) []byte {
	for {
		n := min(len(text), maxStored)
		b = append(b, 0)
		b = binary.LittleEndian.AppendUint16(b, uint16(n))
		b = binary.LittleEndian.AppendUint16(b, ^uint16(n))
		b = append(b, text[:n]...)
		if n == 0 {
			return b
		}
		text = text[n:]
	}
}

// storedLen returns the length of n bytes as stored blocks.
func storedLen(n int) int { return n + ((n+maxStored-1)/maxStored+1)*storedHeader }

// deflaters are writers that are at rest. Each takes about a megabyte, and keeps the
// last window and blocks until it is used again or collected.
var deflaters = sync.Pool{New: func() any {
	// The lowest level that finds repetitions in events of 100 bytes; some 100 MB/s
	// of JSON.
	w, err := flate.NewWriter(nil, 7)
	if err != nil {
		panic("gzip: internal error: " + err.Error())
	}
	return w
}}

// deflate returns text as blocks that end on a byte and are not final. They may refer to
// window, the text right before.
func deflate(text, window []byte) []byte {
	var b bytes.Buffer
	w := deflaters.Get().(*flate.Writer)
	w.ResetDict(&b, window)
	w.Write(text) // a buffer takes everything
	w.Flush()
	deflaters.Put(w)
	if b.Len() >= storedLen(len(text)) {
		return appendStored(make([]byte, 0, storedLen(len(text))), text)
	}
	return bytes.Clone(b.Bytes())
}
