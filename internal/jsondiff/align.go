package jsondiff

import (
	"slices"
	"sort"
)

// pair says that the new item is what became of the old one.
type pair struct{ old, new int }

// align pairs items of a and b such that both indices increase.
func (d *differ) align(path pointer, a, b []value) []pair {
	head := 0
	for head < len(a) && head < len(b) && equal(&a[head], &b[head]) {
		head++
	}
	tail := 0
	for tail < min(len(a), len(b))-head && equal(&a[len(a)-1-tail], &b[len(b)-1-tail]) {
		tail++
	}
	var pairs []pair
	for i := range head {
		pairs = append(pairs, pair{i, i})
	}
	for _, p := range d.alignMiddle(path, a, b, head, tail) {
		pairs = append(pairs, pair{head + p.old, head + p.new})
	}
	for i := tail; i > 0; i-- {
		pairs = append(pairs, pair{len(a) - i, len(b) - i})
	}
	return pairs
}

// alignMiddle pairs the items between the first head and the last tail ones.
func (d *differ) alignMiddle(path pointer, a, b []value, head, tail int) []pair {
	if head+tail == len(a) || head+tail == len(b) {
		return nil
	}
	name, named := d.keys[string(path)]
	if !named {
		name = DefaultKey
	}
	if oldIDs, newIDs := ids(a, name), ids(b, name); oldIDs != nil && newIDs != nil {
		return anchors(oldIDs[head:len(a)-tail], newIDs[head:len(b)-tail])
	}
	return alignByContent(hashes(a[head:len(a)-tail]), hashes(b[head:len(b)-tail]))
}

// alignByContent keeps items that are unique on both sides, and between them
// whatever a shortest edit script keeps.
func alignByContent(a, b []uint64) []pair {
	var pairs []pair
	i, j := 0, 0
	for _, p := range append(anchors(a, b), pair{len(a), len(b)}) {
		for _, q := range editScript(a[i:p.old], b[j:p.new]) {
			pairs = append(pairs, pair{i + q.old, j + q.new})
		}
		if p.old < len(a) {
			pairs = append(pairs, p)
		}
		i, j = p.old+1, p.new+1
	}
	return pairs
}

// ids returns what identifies each item, or nil where an item has no string or
// number of that name, or where two have the same one. A number and a string are
// never the same.
func ids(items []value, name string) []uint64 {
	all := make([]uint64, len(items))
	seen := make(map[uint64]bool)
	for i := range items {
		id := items[i].member(name)
		if id == nil || !isID(id) || seen[id.hash] {
			return nil
		}
		all[i], seen[id.hash] = id.hash, true
	}
	return all
}

func isID(v *value) bool {
	return v.kind == text || v.kind == scalar && (v.text[0] == '-' || v.text[0] >= '0' && v.text[0] <= '9')
}

func hashes(items []value) []uint64 {
	all := make([]uint64, len(items))
	for i := range items {
		all[i] = items[i].hash
	}
	return all
}

// anchors pairs what is unique in both a and b, as many as keep their order.
func anchors(a, b []uint64) []pair {
	const several = -1
	place := func(s []uint64) map[uint64]int {
		at := make(map[uint64]int, len(s))
		for i, x := range s {
			if _, seen := at[x]; seen {
				at[x] = several
			} else {
				at[x] = i
			}
		}
		return at
	}
	inA, inB := place(a), place(b)
	var pairs []pair
	for i, x := range a {
		if j, ok := inB[x]; ok && j != several && inA[x] != several {
			pairs = append(pairs, pair{i, j})
		}
	}
	return longestIncreasing(pairs)
}

// longestIncreasing returns as many pairs as possible whose new indices increase,
// out of pairs whose old ones do (patience sorting).
func longestIncreasing(pairs []pair) []pair {
	var ends []int // ends[n] is the pair with the least new index that ends a run of n+1
	before := make([]int, len(pairs))
	for i, p := range pairs {
		n := sort.Search(len(ends), func(n int) bool { return pairs[ends[n]].new >= p.new })
		before[i] = -1
		if n > 0 {
			before[i] = ends[n-1]
		}
		if n == len(ends) {
			ends = append(ends, i)
		} else {
			ends[n] = i
		}
	}
	if len(ends) == 0 {
		return nil
	}
	run := make([]pair, len(ends))
	for n, i := len(ends)-1, ends[len(ends)-1]; i >= 0; n, i = n-1, before[i] {
		run[n] = pairs[i]
	}
	return run
}

// maxEdits bounds the work of [editScript]: time grows with the edits times the
// items, memory with the square of the edits.
const maxEdits = 256

// editScript pairs what a shortest edit script from a to b keeps (Myers, “An
// O(ND) Difference Algorithm and Its Variations”, 1986). It returns nothing where
// that needs more than maxEdits edits.
func editScript(a, b []uint64) []pair {
	if len(a) == 0 || len(b) == 0 {
		return nil
	}
	// reach[k] is how far in a the edits so far come on the diagonal old−new = k.
	most := min(maxEdits, len(a)+len(b))
	reach := make([]int, 2*most+3)
	origin := most + 1
	var trace [][]int
	for edits := 0; edits <= most; edits++ {
		for k := -edits; k <= edits; k += 2 {
			i := reach[origin+k-1] + 1
			if k == -edits || k != edits && reach[origin+k-1] < reach[origin+k+1] {
				i = reach[origin+k+1]
			}
			for j := i - k; i < len(a) && j < len(b) && j >= 0 && a[i] == b[j]; j++ {
				i++
			}
			reach[origin+k] = i
			if i >= len(a) && i-k >= len(b) {
				return traceBack(append(trace, slices.Clone(reach[origin-edits:origin+edits+1])), len(a), len(b))
			}
		}
		trace = append(trace, slices.Clone(reach[origin-edits:origin+edits+1]))
	}
	return nil
}

// traceBack walks an edit script from its end and collects what it keeps.
// trace[e] holds the reach of e edits, of the diagonals −e … e.
func traceBack(trace [][]int, i, j int) []pair {
	var pairs []pair
	for edits := len(trace) - 1; edits >= 0; edits-- {
		k := i - j
		fromOld, fromNew := 0, 0
		if edits > 0 {
			before := func(k int) int {
				if k < -(edits-1) || k > edits-1 {
					return -1
				}
				return trace[edits-1][k+edits-1]
			}
			if k == -edits || k != edits && before(k-1) < before(k+1) {
				fromOld, fromNew = before(k+1), before(k+1)-(k+1)
			} else {
				fromOld, fromNew = before(k-1), before(k-1)-(k-1)
			}
		}
		for i > fromOld && j > fromNew {
			i, j = i-1, j-1
			pairs = append(pairs, pair{i, j})
		}
		i, j = fromOld, fromNew
	}
	slices.Reverse(pairs)
	return pairs
}
