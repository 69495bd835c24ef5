package jsondiff

import (
	"bytes"
	"encoding/binary"
	"math/bits"
)

// A stretch is a part of the old text that stands in the new one too.
type stretch struct {
	from, to int // in the old text
	shift    int // how much further it stands in the new one
}

// equalUpTo returns how far the old text from s on is the same as the new one from p
// on, as an offset in the old one. No byte is compared twice with the same one as
// long as that goes on from left to right.
func (d *differ) equalUpTo(s, p int) int {
	end, known := len(d.old), -1
	for i, x := range d.stretches {
		if x.shift != p-s || s > x.to {
			continue
		}
		if s >= x.from {
			return x.to
		}
		end, known = x.from, i
	}
	to := s + commonPrefix(d.old[s:end], d.text[p:], 64-s%64)
	if to == end && known >= 0 {
		d.stretches[known].from = s
		return d.stretches[known].to
	}
	i := 0
	if d.stretches[0].to > d.stretches[1].to {
		i = 1
	}
	d.stretches[i] = stretch{s, to, p - s}
	return to
}

// commonPrefix returns how many bytes a and b have in common at their beginning. It
// compares ever longer blocks, as fast as memory can be read; the first is so long
// that the others begin where a cache line does.
func commonPrefix(a, b []byte, first int) int {
	n := min(len(a), len(b))
	i := 0
	for size, next := first, 64; i < n; size, next = next, min(2*next, 16<<10) {
		size = min(size, n-i)
		if !bytes.Equal(a[i:i+size], b[i:i+size]) {
			n = i + size
			break
		}
		i += size
	}
	for n-i > 64 { // the difference is in here
		half := (n - i) / 2
		if bytes.Equal(a[i:i+half], b[i:i+half]) {
			i += half
		} else {
			n = i + half
		}
	}
	for ; n-i >= 8; i += 8 {
		if x := binary.LittleEndian.Uint64(a[i:]) ^ binary.LittleEndian.Uint64(b[i:]); x != 0 {
			return i + bits.TrailingZeros64(x)/8
		}
	}
	for i < n && a[i] == b[i] {
		i++
	}
	return i
}
