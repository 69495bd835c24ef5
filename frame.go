package pollsse

import (
	"sync"
	"sync/atomic"
)

// frame is an event as it is written to every stream, encoded once and, as soon as
// anybody accepts that, compressed once.
type frame struct {
	number uint64 // no two frames of the process have the same
	text   []byte

	// The frame that most clients were sent right before this one, which repeats much
	// of it.
	before deflateWindow

	alone deflated // what anybody can decode
	next  deflated // what those can decode who were just sent the one before
}

// deflateWindow is the text that deflate may refer to.
type deflateWindow struct {
	number uint64 // of its frame, 0 where there is none
	text   []byte
}

var frameNumbers atomic.Uint64

// newFrame returns the frame of text; before is the frame that most clients are sent
// right before it, or nil.
func newFrame(text []byte, before *frame) *frame {
	f := &frame{number: frameNumbers.Add(1), text: text}
	// Deflate looks back no further, and a longer text need not be kept.
	if before != nil && len(before.text) <= maxWindow {
		f.before = deflateWindow{before.number, before.text}
	}
	return f
}

// blocksAfter returns the frame as deflate blocks, for a client that was sent the frame
// of that number last.
func (f *frame) blocksAfter(last uint64) []byte {
	if last != 0 && last == f.before.number {
		return f.next.of(f.text, f.before.text)
	}
	return f.alone.of(f.text, nil)
}

// deflated is what a text was compressed to, by the first who wanted it.
type deflated struct {
	once   sync.Once
	blocks []byte
}

func (d *deflated) of(text, window []byte) []byte {
	d.once.Do(func() { d.blocks = deflate(text, window) })
	if d.blocks == nil {
		panic("frame: internal error: not compressed") // nor was it for the first
	}
	return d.blocks
}
