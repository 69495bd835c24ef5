package integration

import (
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
)

// sweep answers the polls of one resource one after the other: an answer that is cut off,
// a good one, the next that is cut off.
type sweep struct {
	*scripted
	answers []answer // guarded by the resource's lock
	must    int      // documents that clients see
	may     int      // and those that they may see too
	last    string
}

func (s *sweep) answer(poll) answer {
	a := s.answers[0]
	if len(s.answers) > 1 {
		s.answers = s.answers[1:]
	}
	return a
}

// add appends an answer.
func (s *sweep) add(a answer) {
	document, o := a.judge(false)
	switch o {
	case usable:
		s.must++
		s.last = document
	case doubtful:
		s.may++
	}
	s.answers = append(s.answers, a)
}

// A backend whose connection ends after any byte of an answer is seen to have failed
// where RFC 9112 says that the answer is not complete, and only there; a pause ends none.
func TestBackendFailsAtEveryByte(t *testing.T) {
	const parts = 4 // of each sweep, at the same time
	forms := map[string]func(doc string) answer{
		"length":      func(doc string) answer { return plain(doc) },
		"chunked":     func(doc string) answer { return chunked(doc, 9) },
		"until close": untilClose,
		"gzip":        zipped,
		"early hints": func(doc string) answer {
			return answer{wire: "HTTP/1.1 103 Early\r\nLink: x\r\n\r\n" + plain(doc).wire}
		},
	}
	b := newBackend(t)
	sweeps := make(map[string]*sweep)
	for i, name := range slices.Sorted(maps.Keys(forms)) {
		for _, end := range []ending{finish, reset, keep} {
			for part := range parts {
				s := new(sweep)
				s.scripted = b.resource(fmt.Sprintf("/api/%d-%v-%d", i, end, part), s.answer)
				n := 0
				next := func() answer {
					n++
					return forms[name](fmt.Sprintf(`{"number":"%04d"}`, n))
				}
				s.add(next())
				for k := part; k <= len(next().wire); k += parts {
					if a := next(); end == keep {
						a.split = min(k, len(a.wire))
						s.add(a)
					} else {
						s.add(a.cut(min(k, len(a.wire)), end))
						s.add(next())
					}
				}
				s.add(next())
				sweeps[fmt.Sprintf("%s, %v, part %d", name, end, part)] = s
			}
		}
	}
	c := start(t, b.site(fmt.Sprintf("interval %v", interval), false))
	var all sync.WaitGroup
	for name, s := range sweeps {
		all.Go(func() {
			if err := s.run(c, protocols[len(name)%2]); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		})
	}
	all.Wait()
	for name, s := range sweeps {
		if stale, live, _, err := c.transitions(s.scripted); err != nil || stale != live {
			t.Errorf("%s: %d lines say stale, %d live (%v)", name, stale, live, err)
		}
	}
}

// run follows a sweep to its end.
func (s *sweep) run(c *caddy, protocol string) error {
	f, err := c.follow(protocol, s.scripted)
	if err != nil {
		return err
	}
	defer f.leave()
	if err := f.sees(s.last); err != nil {
		return err
	}
	f.mu.Lock()
	documents := f.seq + 1 // whether they came one by one or, where that is shorter, as a newer one
	f.mu.Unlock()
	if documents < s.must || documents > s.must+s.may {
		return fmt.Errorf("%d documents, %d are good, %d may be", documents, s.must, s.may)
	}
	if err := s.stormed(); err != nil {
		return err
	}
	return f.leave()
}
