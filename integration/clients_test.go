package integration

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pollsse/caddy-poll-sse/internal/sse"
)

// However many clients there are, the upstream is polled once per interval, and
// not at all when they have left.
func TestOnePollForAllClients(t *testing.T) {
	const clients, interval = 1000, 200 * time.Millisecond
	u := newUpstream(t, numbered(0))
	c := start(t, u.site(fmt.Sprintf("interval %v\nlinger 300ms", interval)))
	streams := make([]*connection, clients)
	var all sync.WaitGroup
	for i := range streams {
		all.Go(func() {
			s, err := c.connect("h1", "/api/x", "")
			if err != nil {
				t.Error(err)
				return
			}
			streams[i] = s
			if _, err := s.Next(); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if got := c.metric("caddy_poll_sse_streams"); got != clients || t.Failed() {
		t.Fatalf("%d streams are open", got)
	}
	before, began := u.count(), time.Now()
	c.eventually("polling goes on", func() bool { return u.count() >= before+15 })
	polls, took := u.count()-before, time.Since(began)
	if most := int(took/(interval*9/10)) + 2; polls > most { // the first may have been on its way
		t.Errorf("%d polls, expected at most %d", polls, most)
	}
	t.Logf("%d polls in %v by %d clients, interval %v", polls, took.Round(time.Millisecond), clients, interval)
	for _, s := range streams {
		s.close()
	}
	c.eventually("polling ends", func() bool { return !strings.Contains(c.goroutines(), "caddy-poll-sse.") })
	before = u.count()
	time.Sleep(5 * interval)
	if n := u.count() - before; n > 1 { // which was on its way
		t.Errorf("%d polls after the last client has left", n)
	}
}

// Streams that wait hold no document of their own.
func TestWaitingStreamsShareTheDocument(t *testing.T) {
	const clients = 30
	document := func(n int) string { return fmt.Sprintf(`{"n":%d,"filler":%q}`, n, strings.Repeat("x", 1<<20)) }
	u := newUpstream(t, document(0))
	c := start(t, u.site("interval 10ms\nhistory 10 64KiB"))
	heap := func() int {
		response, err := c.admin.Get("http://localhost/debug/pprof/heap?gc=1")
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		return c.metric("go_memstats_heap_alloc_bytes") >> 20
	}
	before := heap()
	for n := range clients { // each begins with another snapshot
		u.set(document(n))
		polls := u.count()
		// When the second poll from here on begins, the first has got this document.
		c.eventually("the document is polled", func() bool { return n == 0 || u.count() >= polls+2 })
		s := c.open("h1", "/api/x", "")
		if e := c.next(s); !strings.Contains(e.Data[:60], fmt.Sprintf(`"n":%d,`, n)) {
			t.Fatalf("client %d begins with %.60s", n, e.Data)
		}
		go func() {
			for {
				if _, err := s.Next(); err != nil {
					return
				}
			}
		}()
	}
	after := 0
	defer func() { t.Logf("heap %d MiB before, %d MiB with %d clients", before, after, clients) }()
	// Between its collection and the look at it the heap may have grown by what is polled.
	c.eventually("the heap is not much larger than before", func() bool { after = heap(); return after <= before+clients/2 })
}

// A client that hardly reads costs bounded memory and delays nobody; when it reads
// again it is sent one snapshot and goes on from there.
func TestStalledClients(t *testing.T) {
	const stalled = 20
	document := func(n int) string {
		return fmt.Sprintf(`{"n":%d,"filler":%q}`, n, strings.Repeat(fmt.Sprint(n), 1<<20/len(fmt.Sprint(n))))
	}
	u := newUpstream(t, document(0))
	c := start(t, u.site("interval 20ms\nhistory 10 4MiB"))
	live := c.open("h1", "/api/x", "")
	c.next(live)
	var conns []*bufio.Reader
	for range stalled {
		conn, err := net.Dial("unix", filepath.Join(c.dir, "h1"))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		fmt.Fprintf(conn, "GET /api/x HTTP/1.0\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n")
		conn.SetDeadline(time.Now().Add(3 * patience))
		conns = append(conns, bufio.NewReaderSize(conn, 8<<20))
	}
	c.eventually("all are connected", func() bool { return c.metric("caddy_poll_sse_streams") == stalled+1 })
	heap := func() int { return c.metric("go_memstats_heap_inuse_bytes") >> 20 }
	before, slowest := heap(), time.Duration(0)
	documents := 0
	for start := time.Now(); documents < 25 && time.Since(start) < 5*time.Second; {
		documents++
		n := documents
		u.set(document(n))
		began := time.Now()
		for {
			e := c.next(live)
			if strings.Contains(e.Data[:60], fmt.Sprintf(`"n":%d,`, n)) {
				break
			}
		}
		slowest = max(slowest, time.Since(began))
		for _, conn := range conns { // or what is written to them would be cut after 10s
			conn.Peek(n * 64 << 10)
		}
	}
	after := heap()
	t.Logf("heap %d MiB before, %d MiB after; the live client waited %v at most", before, after, slowest)
	if after > before+200 { // the queues would hold 20 × 25 MiB
		t.Errorf("heap grew from %d MiB to %d MiB", before, after)
	}
	if slowest > 9*time.Second { // as long as it takes to cut off those that it may have waited for
		t.Errorf("the live client waited %v", slowest)
	}
	var all sync.WaitGroup
	for i, conn := range conns {
		all.Go(func() {
			if events, err := untilNumber(conn, documents); err != nil || events > 5 {
				t.Errorf("stalled client %d was sent %d events (%v)", i, events, err)
			}
		})
	}
	all.Wait()
}

// untilNumber reads a response up to the event with a document, and returns how many
// events that are.
func untilNumber(conn *bufio.Reader, number int) (events int, err error) {
	response, err := http.ReadResponse(conn, nil)
	if err != nil {
		return 0, err
	}
	for r := sse.NewReader(response.Body); ; {
		e, err := r.Next()
		if err != nil {
			return events, err
		}
		events++
		if strings.Contains(e.Data[:60], fmt.Sprintf(`"n":%d,`, number)) {
			return events, nil
		}
	}
}
