package jsondiff

import (
	"hash/maphash"
	"slices"
)

// A pair says that the new item is what became of the old one.
type pair struct{ old, new int }

// align pairs items such that both indices increase. Items are the same where what
// identifies them is, or else where they have most in common.
func (d *differ) align(olds, news []item) []pair {
	if len(olds) == 0 || len(news) == 0 || len(olds)+len(news) == 2 {
		return nil
	}
	d.effort += olds[len(olds)-1].to - olds[0].from + news[len(news)-1].to - news[0].from
	member := d.key()
	a, b := ids(d.old, olds, member), ids(d.text, news, member)
	if a != nil && b != nil {
		return heaviest(anchors(a, b), news)
	}
	x, y := partsOf(d.old, olds), partsOf(d.text, news)
	var pairs []pair
	i, k := 0, 0
	for _, p := range append(heaviest(anchors(x.sums(), y.sums()), news), pair{len(olds), len(news)}) {
		for _, q := range alike(x[i:p.old], y[k:p.new]) {
			pairs = append(pairs, pair{i + q.old, k + q.new})
		}
		if p.old < len(olds) {
			pairs = append(pairs, p)
		}
		i, k = p.old+1, p.new+1
	}
	return pairs
}

// key returns the member that tells the items of the array at hand apart.
func (d *differ) key() string {
	for _, k := range d.Keys {
		if Match(string(newPointer(k.Pointer)), string(d.path)) {
			return k.Member
		}
	}
	return DefaultKey
}

// ids returns what identifies each item, or nil where an item has no string or
// number of that name, or where two have the same one. A number and a string are
// never the same.
func ids(text []byte, items []item, member string) []uint64 {
	all := make([]uint64, len(items))
	for i, it := range items {
		if text[it.from] != '{' {
			return nil
		}
		c := childrenOf(text, it.from, it.index)
		for !c.ended() {
			from := c.value()
			if string(unescape(text[c.at:from-1])) == member {
				all[i] = id(text[from:c.end(from)])
				break
			}
			c.next(c.end(from))
		}
		if all[i] == 0 {
			return nil
		}
	}
	if repeated(all) {
		return nil
	}
	return all
}

// id returns 0 for what is neither a string nor a number.
func id(value []byte) uint64 {
	switch c := value[0]; {
	case c == '"':
		return hashString(value) | 1
	case c == '-' || c-'0' <= 9:
		return maphash.Bytes(seed, value) &^ 1
	}
	return 0
}

// anchors pairs what is unique on both sides, in the order of the old ones.
func anchors(a, b []uint64) []pair {
	const several = -1
	place := make(map[uint64]int, len(b))
	for k, x := range b {
		if _, twice := place[x]; twice {
			k = several
		}
		place[x] = k
	}
	count := make(map[uint64]int, len(a))
	for _, x := range a {
		count[x]++
	}
	var pairs []pair
	for i, x := range a {
		if k, ok := place[x]; ok && k != several && count[x] == 1 {
			pairs = append(pairs, pair{i, k})
		}
	}
	return pairs
}

// heaviest returns those of the pairs, whose old indices increase, that together have
// the longest new items among all choices whose new indices increase too.
func heaviest(pairs []pair, news []item) []pair {
	// best is a Fenwick tree: the heaviest choice that ends at a new index or before.
	type choice struct{ weight, last int }
	best := make([]choice, len(news)+1)
	before := make([]int, len(pairs))
	top := choice{0, none}
	for i, p := range pairs {
		c := choice{0, none}
		for k := p.new; k > 0; k &= k - 1 {
			if best[k].weight > c.weight {
				c = best[k]
			}
		}
		before[i] = c.last
		c = choice{c.weight + news[p.new].to - news[p.new].from, i}
		for k := p.new + 1; k < len(best); k += k & -k {
			if c.weight > best[k].weight {
				best[k] = c
			}
		}
		if c.weight > top.weight {
			top = c
		}
	}
	var chosen []pair
	for i := top.last; i != none; i = before[i] {
		chosen = append(chosen, pairs[i])
	}
	slices.Reverse(chosen)
	return chosen
}

// mostParts is how many children an item has at most, or it is one part as a whole.
const mostParts = 256

// parts are what each of some items consists of: hashes of its members or items.
type parts [][]part

type part struct {
	hash uint64
	size int
}

func partsOf(text []byte, items []item) parts {
	all := make(parts, len(items))
	var list []part
	for n, it := range items {
		start := len(list)
		if c := text[it.from]; c == '{' || c == '[' {
			for c := childrenOf(text, it.from, it.index); !c.ended() && len(list)-start <= mostParts; {
				to := c.end(c.value())
				list = append(list, part{maphash.Bytes(seed, text[c.at:to]), to - c.at})
				c.next(to)
			}
		}
		if n := len(list) - start; n == 0 || n > mostParts {
			list = append(list[:start], part{maphash.Bytes(seed, text[it.from:it.to]), it.to - it.from})
		}
		all[n] = list[start:len(list):len(list)]
		slices.SortFunc(all[n], func(a, b part) int {
			if a.hash < b.hash {
				return -1
			}
			return 1
		})
	}
	return all
}

// sums returns a hash of each item, that does not depend on the order of its parts.
func (p parts) sums() []uint64 {
	sums := make([]uint64, len(p))
	for i, list := range p {
		for _, x := range list {
			sums[i] += x.hash
		}
	}
	return sums
}

func (p parts) count() int {
	n := 0
	for _, list := range p {
		n += len(list)
	}
	return n
}

// common returns how many bytes two items have in common, or 0 where that is little.
func common(a, b []part) int {
	size, total := 0, 0
	for _, p := range b {
		total += p.size
	}
	for len(a) > 0 && len(b) > 0 {
		switch {
		case a[0].hash < b[0].hash:
			a = a[1:]
		case a[0].hash > b[0].hash:
			b = b[1:]
		default:
			size += a[0].size
			a, b = a[1:], b[1:]
		}
	}
	if size*3 < total*2 {
		return 0
	}
	return size
}

// mostSteps bounds the work of alike.
const mostSteps = 1 << 18

// alike pairs items so that the pairs have as much in common as possible. It gives up
// on long lists.
func alike(a, b parts) []pair {
	if len(a)*len(b)+len(b)*a.count()+len(a)*b.count() > mostSteps {
		return nil
	}
	width := len(b) + 1
	best := make([]int, (len(a)+1)*width) // best[i*width+k] is of a[i:] and b[k:]
	for i := len(a) - 1; i >= 0; i-- {
		for k := len(b) - 1; k >= 0; k-- {
			best[i*width+k] = max(best[(i+1)*width+k], best[i*width+k+1], best[(i+1)*width+k+1]+common(a[i], b[k]))
		}
	}
	var pairs []pair
	for i, k := 0, 0; i < len(a) && k < len(b); {
		switch best[i*width+k] {
		case best[(i+1)*width+k]:
			i++
		case best[i*width+k+1]:
			k++
		default:
			pairs = append(pairs, pair{i, k})
			i, k = i+1, k+1
		}
	}
	return pairs
}
