package integration

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// flaky is a script that draws what it answers, each time with a document of its own.
// Its fields are guarded by the resource's lock.
type flaky struct {
	*rand.Rand
	n         int
	withdrawn bool   // says the newest answer
	last      string // is all that comes from now on, where not empty
	good, bad int
	doubtful  int
}

func (f *flaky) answer(p poll) answer {
	if f.last != "" {
		return plain(f.last)
	}
	f.n++
	a := f.draw(fmt.Sprintf(`{"n":%d,"text":%q}`, f.n, strings.Repeat(strconv.Itoa(f.n)+" é ", 1<<f.IntN(12))), p)
	switch _, o := a.judge(p.conditional); o {
	case unusable:
		f.bad++
	case doubtful:
		f.doubtful++
	case usable:
		f.good++
	}
	return a
}

// again begins another run. No poll is on its way.
func (f *flaky) again() { *f = flaky{Rand: f.Rand, n: f.n} }

func (f *flaky) draw(doc string, p poll) answer {
	a := f.spell(doc)
	if f.withdrawn || p.number == 0 { // a second one in a row would end the streams, and a first 404 open none
		f.withdrawn = false
		return a
	}
	k := f.IntN(len(a.wire) + 1)
	switch f.IntN(24) {
	case 0:
		return a.cut(k, finish)
	case 1:
		return a.cut(k, reset)
	case 2:
		return a.cut(0, []ending{finish, reset}[f.IntN(2)])
	case 3: // a byte of the body is another
		start := strings.LastIndex(a.wire, "\r\n\r\n") + 4
		if start == len(a.wire) { // of chunks
			return a.cut(k, finish)
		}
		k = start + f.IntN(len(a.wire)-start)
		a.wire = a.wire[:k] + string([]byte{byte(f.IntN(256))}) + a.wire[k+1:]
		return a.closed()
	case 4:
		return raw(doc, "Content-Length: "+strconv.Itoa(len(doc)+1+f.IntN(9))).closed()
	case 5:
		return raw(doc[:f.IntN(len(doc))], "Transfer-Encoding: chunked").closed()
	case 6:
		codes := []string{"500 Oh", "502 Bad", "404 Not Found", "408 Late", "425 Early", "429 Too Many", "204 Nothing", "206 Part", "302 Found", "308 There"}
		return status(codes[f.IntN(len(codes))], "Location: /api/only-where-a-redirect-leads")
	case 7:
		after := []string{"0", "-1", "soon", "Sun, 06 Nov 1994 08:49:37 GMT", "Sunday, 06-Nov-94 08:49:37 GMT", "1e9", ""}
		return status("503 Busy", "Retry-After: "+after[f.IntN(len(after))])
	case 8, 9:
		if p.conditional || f.IntN(8) == 0 {
			return status("304 Not Modified", `ETag: "x"`)
		}
	case 10:
		return plain(`<html>` + doc)
	case 11:
		return plain(doc + strings.Repeat(" ", maxBody))
	case 12:
		return answer{wire: "HTTP/1.1 103 Early Hints\r\nSet-Cookie: early=1\r\n\r\n", end: []ending{finish, reset}[f.IntN(2)]}
	case 13:
		switch f.IntN(12) { // each takes long
		case 0:
			return a.cut(f.IntN(len(a.wire)), stall)
		case 1:
			a.pace, a.split = 50*time.Millisecond, 0
			return a
		case 2:
			return answer{wire: okay, more: "X: 1\r\n"}
		case 3:
			return answer{wire: raw(doc).wire, more: strings.Repeat(" ", 1000)}
		case 4:
			f.withdrawn = true
			return status([]string{"401 Who", "403 No", "410 Gone"}[f.IntN(3)])
		}
	}
	return a
}

// spell frames a document in one of the ways there are.
func (f *flaky) spell(doc string) (a answer) {
	switch f.IntN(6) {
	case 0:
		a = chunked(doc, 1+f.IntN(len(doc)))
	case 1:
		a = untilClose(doc)
	case 2:
		a = zipped(doc)
	case 3:
		a = plain(doc, fmt.Sprintf("ETag: \"%d\"", f.n))
	case 4:
		a = answer{wire: "HTTP/1.1 103 Early Hints\r\nSet-Cookie: early=1\r\n\r\n" + plain(doc).wire}
	default:
		a = plain(doc)
	}
	if f.IntN(4) == 0 {
		a.split = f.IntN(len(a.wire))
	}
	if f.IntN(8) == 0 {
		return a.closed()
	}
	return a
}

// Resources whose upstreams fail at random do not mix, nor does anything of them stay.
func TestFaultsInParallel(t *testing.T) {
	seed := seedOf(t)
	b := newBackend(t)
	resources, scripts := make([]*scripted, 12), make([]*flaky, 12)
	for i := range resources {
		scripts[i] = &flaky{Rand: rand.New(rand.NewPCG(seed, uint64(i)))}
		resources[i] = b.resource(fmt.Sprintf("/api/%d", i), scripts[i].answer)
	}
	c := start(t, b.site(fmt.Sprintf("interval %v\ntimeout %v\nmax_body %d\nlinger 100ms", interval, pollTimeout, maxBody), false))
	run := func(d time.Duration) {
		var all sync.WaitGroup
		for i, r := range resources {
			all.Go(func() {
				if err := c.endure(protocols[i%2], r, scripts[i], d); err != nil {
					t.Errorf("%s: %v", r.path, err)
				}
			})
		}
		all.Wait()
	}
	run(time.Second)
	before := c.usage(b)
	run(max(6*time.Second, *long))
	var after usage
	c.eventually("no more is left than before", func() bool {
		after = c.usage(b)
		t.Logf("before %+v, after %+v", before, after)
		return after.goroutines <= before.goroutines+10 && after.files <= before.files+10 && after.heap <= before.heap+8<<20
	})
	for i, r := range resources {
		stale, live, _, err := c.transitions(r)
		if err != nil {
			t.Errorf("%s: %d lines say stale, %d live (%v)", r.path, stale, live, err)
		}
		s := scripts[i]
		t.Logf("%s: %d polls, answered with %d documents and %d faults, %d are doubtful; %d times stale", r.path, r.count(), s.good, s.bad, s.doubtful, stale)
	}
}

// endure follows a resource with two clients that stay and others that come and go.
func (c *caddy) endure(protocol string, r *scripted, script *flaky, d time.Duration) error {
	r.again()
	script.again()
	var witnesses []*witness
	for _, header := range [][]string{nil, {"Accept-Encoding", "gzip"}} {
		f, err := c.follow(protocol, r, header...)
		if err != nil {
			return err
		}
		defer f.leave()
		witnesses = append(witnesses, f)
	}
	for deadline := time.Now().Add(d); time.Now().Before(deadline); time.Sleep(150 * time.Millisecond) {
		if err := c.visit(protocol, r, witnesses[0]); err != nil {
			return err
		}
	}
	r.mu.Lock()
	script.last = fmt.Sprintf(`{"last":%d}`, script.n)
	last, most := script.last, script.good+script.doubtful+1
	r.mu.Unlock()
	for _, f := range witnesses {
		if err := f.sees(last); err != nil {
			return err
		}
		f.mu.Lock()
		if f.seq >= most {
			f.err = fmt.Errorf("%d events of %d documents", f.seq+1, most)
		}
		f.mu.Unlock()
	}
	return errors.Join(r.stormed(), witnesses[0].leave(), witnesses[1].leave())
}

// usage is what a process holds.
type usage struct{ goroutines, files, heap int }

var heapInUse = regexp.MustCompile(`(?m)^# HeapAlloc = ([0-9]+)$`)

// usage waits until all resources have ended, and counts what is left.
func (c *caddy) usage(b *backend) usage {
	c.t.Helper()
	c.h1.CloseIdleConnections()
	c.h2.CloseIdleConnections()
	var u usage
	c.eventually("resources end", func() bool {
		b.drop()
		stacks := c.goroutines()
		u.goroutines = strings.Count(stacks, "goroutine ")
		return !strings.Contains(stacks, "caddy-poll-sse.")
	})
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", c.process.Process.Pid))
	if err != nil {
		c.t.Skip("there is no /proc")
	}
	u.files = len(entries)
	response, err := c.admin.Get("http://localhost/debug/pprof/heap?gc=1&debug=1")
	if err != nil {
		c.t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	match := heapInUse.FindSubmatch(text)
	if err != nil || match == nil {
		c.t.Fatalf("the size of the heap is not told (%v)", err)
	}
	u.heap, _ = strconv.Atoi(string(match[1]))
	return u
}
