package integration

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"
)

const past, future, far = "Sun, 06 Nov 1994 08:49:37 GMT", "Sun, 06 Nov 2094 08:49:37 GMT", "Fri, 31 Dec 9999 23:59:59 GMT"

// misleading are lines of a header that a poller had better ignore, joined by |.
var misleading = []string{
	"Date: " + past, "Date: " + future, "Date: " + far, "Date: yesterday", "Date: 0", "Date: Sunday, 06-Nov-94 08:49:37 GMT",
	"Age: -5", "Age: 1e9", "Age: 99999999999999999999", "Age: soon",
	"Expires: 0", "Expires: -1", "Expires: " + past, "Expires: " + far, "Expires: " + future + "|Date: " + past,
	"Cache-Control: max-age=-1", "Cache-Control: max-age=soon", "Cache-Control: max-age", "Cache-Control: max-age=10|Age: 99999999999999999999",
	"Cache-Control: max-age=1.5", "Cache-Control: no-store, max-age=9", "Cache-Control: ,,=,;", "Cache-Control: max-age=0|Age: -9223372036854775808",
	"Retry-After: 3600", "Retry-After: " + far, "Retry-After: -1", // has no meaning in a 200
	`ETag: "same"`, `ETag: W/"same"`, `ETag: same`, `ETag: "open`, `ETag: "a" "b"`, `ETag: W/same`, `ETag: ""`, `ETag: w/"x"`, `ETag:`, "ETag: \"\xff\xfe\"",
	"ETag: \"a\tb\"", `ETag: *`, `ETag: "a"|ETag: "b"`, `ETag: "` + strings.Repeat("x", 8<<10) + `"`, `ETag: "a", "b"`,
	"Last-Modified: " + past, "Last-Modified: " + past + "|Date: " + future, "Last-Modified: " + future + "|Date: " + past, "Last-Modified: " + far + "|Date: " + far,
	"Last-Modified: yesterday|Date: " + future, "Last-Modified: " + past + "|Date: tomorrow", "Last-Modified: Sunday, 06-Nov-94 08:49:37 GMT|Date: " + future,
}

// longFresh are lines that call an answer fresh for longer than the largest interval.
var longFresh = []string{
	"Cache-Control: max-age=99999999999999999999", "Cache-Control: max-age=9223372036854775807|Age: -9223372036854775808",
	"Cache-Control: max-age=60|Age: -60|Date: " + past + "|Expires: 0", "Cache-Control: max-age=60|Age: soon|Date: " + future,
}

// soon are values of Retry-After that are over at once, or are none.
var soon = []string{"0", "-1", "1e9", "soon", "", "+5", "0x10", past, "Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994", "Sun, 99 Nov 2094 08:49:37 GMT", "5, 5"}

// A resource is polled on, neither slower nor faster than its interval allows, and each
// of its documents is seen, whatever the upstream says of time and versions.
func TestHeadersThatMislead(t *testing.T) {
	startsProcesses(t)
	const fresh = interval * 10 // the largest interval
	type misled struct {
		*scripted
		name  string
		least time.Duration // between polls
	}
	b := newBackend(t)
	var all []misled
	add := func(least time.Duration, name string, script func(p poll) answer) {
		all = append(all, misled{b.resource(fmt.Sprintf("/api/%d", len(all)), script), name, least})
	}
	numbered := func(p poll, lines ...string) answer { return plain(fmt.Sprintf(`{"n":%d}`, p.number), lines...) }
	for _, lines := range misleading {
		add(interval, lines, func(p poll) answer { return numbered(p, strings.Split(lines, "|")...) })
	}
	for _, lines := range longFresh {
		add(fresh, lines, func(p poll) answer { return numbered(p, strings.Split(lines, "|")...) })
	}
	for _, after := range soon {
		for _, code := range []string{"503 Busy", "429 Too Many", "403 No"} {
			add(interval, code+" for "+after, func(p poll) answer {
				if p.number%2 == 1 {
					return status(code, "Retry-After: "+after)
				}
				return numbered(p)
			})
		}
	}
	// Where conditional requests are answered with 304, nobody can know better.
	stuck := b.resource("/api/stuck", func(p poll) answer {
		if p.conditional {
			return status("304 Not Modified", `ETag: "another"`)
		}
		return numbered(p, `ETag: W/"same"`)
	})
	for _, after := range []string{"3600", "99999999999999999999", future, far} {
		busy := b.resource(fmt.Sprintf("/api/busy-%d", len(b.resources)), func(p poll) answer {
			if p.number == 0 {
				return numbered(p)
			}
			return status("503 Busy", "Retry-After: "+after)
		})
		defer func() {
			if n := busy.count(); n != 2 {
				t.Errorf("Retry-After: %s: %d polls", after, n)
			}
		}()
	}

	c := start(t, b.site(fmt.Sprintf("interval %v %v", interval, fresh), false))
	for _, r := range b.resources {
		f, err := c.follow("h1", r)
		if err != nil {
			t.Fatalf("%s: %v", r.path, err)
		}
		defer f.leave()
	}
	var polled sync.WaitGroup
	for _, r := range all {
		polled.Go(func() {
			err := within("it is polled", func() (bool, error) { return r.count() >= 9, nil })
			r.mu.Lock()
			asked, took := r.asked, r.latest.Sub(r.first)
			r.mu.Unlock()
			if polls := time.Duration(asked - 1); polls*r.least*9/10 > took+500*time.Millisecond {
				err = errors.Join(err, fmt.Errorf("%d polls in %v", polls, took))
			}
			f, err2 := c.follow("h1", r.scripted)
			if err = errors.Join(err, err2); err == nil {
				err = within("documents go on", func() (bool, error) { // what it begins with, and two more
					order, err := f.state()
					return order > asked+2, err
				})
				err = errors.Join(err, f.leave())
			}
			if err = errors.Join(err, r.stormed()); err != nil {
				t.Errorf("%s: %v", r.name, err)
			}
		})
	}
	polled.Wait()
	if _, another := stuck.find(digestOf(`{"n":1}`)); another || stuck.count() < 9 {
		t.Errorf("%d polls of what always has the same ETag", stuck.count())
	}
	if strings.Contains(c.log.String(), `/api/stuck"`) {
		t.Error("a 304 is a failure")
	}
}

// A backend that is away is one failure, and connections that it closes when a poll is
// already on its way are none.
func TestBackendGoesAway(t *testing.T) {
	b := newBackend(t)
	n := 0
	r := b.resource("/api/x", func(p poll) answer {
		if p.reused { // such a poll is sent once more (RFC 9112 §9.3.1)
			return answer{end: []ending{finish, reset}[p.number%2]}
		}
		n++
		return plain(fmt.Sprintf(`{"n":%d}`, n))
	})
	c := start(t, b.site(fmt.Sprintf("interval %v", interval), false))
	f, err := c.follow("h2", r)
	if err != nil {
		t.Fatal(err)
	}
	for round := range 3 {
		_, before, _, _ := c.transitions(r)
		from, _ := f.state()
		if err := within("documents go on", func() (bool, error) {
			order, err := f.state()
			return order > from+20, err
		}); err != nil {
			t.Fatal(err)
		}
		if stale, live, _, err := c.transitions(r); stale != round || live != round || err != nil {
			t.Fatalf("%d lines say stale, %d live (%v)", stale, live, err)
		}
		b.shut()
		c.eventually("that is noticed", func() bool { stale, _, _, _ := c.transitions(r); return stale == before+1 })
		time.Sleep(200 * time.Millisecond) // more polls fail
		if err := c.visit("h2", r, f); err != nil {
			t.Error(err)
		}
		c.eventually("the backend is back", func() bool { return b.listen() == nil })
		c.eventually("that is logged", func() bool { _, live, _, _ := c.transitions(r); return live == before+1 })
	}
	if err := errors.Join(f.leave(), r.stormed()); err != nil {
		t.Error(err)
	}
}
