package promise

import (
	"fmt"
	"math/rand/v2"
	"sync"
)

// Backend serves a [Walk] to polls at the same time.
type Backend struct {
	mu   sync.Mutex // guards all below
	walk *Walk
	rand *rand.Rand
	text string
	tag  int
}

// NewBackend returns one for a document of that name. What it does follows from the seed.
func NewBackend(seed, number uint64, name string) *Backend {
	r := rand.New(rand.NewPCG(seed, number))
	b := &Backend{walk: NewWalk(r, name), rand: r}
	b.text = b.walk.String()
	return b
}

// Poll returns the document as the next poll finds it, its entity tag, and, for one poll
// in ten, a number from 1 that says what goes wrong instead. Frozen, it neither changes
// nor fails.
func (b *Backend) Poll(frozen bool) (text, tag string, fault int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if n := b.rand.IntN(100); !frozen {
		switch {
		case n < 45:
			b.walk.Step()
			fallthrough
		case n < 50: // the same, spelled in another way
			b.text = b.walk.String()
			b.tag++
		case n < 60:
			fault = 1 + b.rand.IntN(40)
		}
	}
	return b.text, fmt.Sprintf(`"%d"`, b.tag), fault
}
