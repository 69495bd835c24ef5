package integration

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// Thousands of documents that nobody needs cost the upstream no more than max_pollers
// allow, and those who are served nothing.
func TestThousandsOfQueries(t *testing.T) {
	const pollers, queries, interval = 50, 5000, 500 * time.Millisecond
	u := newUpstream(t, numbered(0))
	c := start(t, u.site(fmt.Sprintf("interval %v\nlinger 1h\nmax_pollers %d", interval, pollers)))
	var served []*connection
	for i := range pollers {
		served = append(served, c.open("h2", fmt.Sprintf("/api/x?x=%d", i), ""))
		c.next(served[i])
	}
	before, polls, began := c.footprint(), u.count(), time.Now()
	// The proxy keeps a connection for each poll that was under way at the same time.
	before.goroutines, before.files = before.goroutines+2*pollers, before.files+pollers
	var asked atomic.Int64
	var all sync.WaitGroup
	for range 4 { // each server has pollers of its own; this is about those of one
		all.Go(func() {
			for range queries / 4 {
				if err := c.turnedAway("h2", fmt.Sprintf("/api/x?x=%d", pollers+int(asked.Add(1)))); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	all.Wait()
	took := time.Since(began)
	most := int(float64(pollers) * (float64(took)/float64(interval)/0.9 + 1))
	if polls = u.count() - polls; polls > most {
		t.Errorf("%d polls in %v", polls, took)
	}
	lines := strings.Count(c.log.String(), "limit reached")
	t.Logf("%d clients were turned away in %v, with %d polls and %d lines in the log", queries, took, polls, lines)
	if lines == 0 || lines > int(took/time.Second)+2 {
		t.Errorf("%d lines in the log in %v", lines, took)
	}
	if n := c.metric(`caddy_poll_sse_refusals_total{limit="max_pollers"}`); n != queries {
		t.Errorf("%d were turned away", n)
	}
	c.returnsTo(before)

	u.set(numbered(1)) // those who are served go on
	for i, s := range served {
		if e := c.next(s); !strings.Contains(e.Data, `"value":1}`) {
			t.Errorf("client %d is sent %.100s", i, e.Data)
		}
		s.close()
	}
	// What lingers gives way, however long it would.
	c.eventually("they have left", func() bool { return c.metric("caddy_poll_sse_streams") == 0 })
	for i := range 2 * pollers {
		c.once("h2", fmt.Sprintf("/api/x?new=%d", i), "")
	}
	c.returnsTo(before)
}

// turnedAway connects and expects to be told to come back later.
func (c *caddy) turnedAway(protocol, path string) error {
	s, err := c.connect(protocol, path, "")
	if err != nil {
		return err
	}
	defer s.close()
	if e, err := c.tryNext(s); err != io.EOF || s.response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s, %.100s (%v)", path, s.response.Status, e.Data, err)
	}
	if s.Retry < 15*time.Second || s.Retry > 60*time.Second {
		return fmt.Errorf("%s: to come back after %v", path, s.Retry)
	}
	return nil
}

// Thousands of wishes about one document cost no more than max_views allow; whoever
// wishes nothing special is always served.
func TestThousandsOfSelections(t *testing.T) {
	const views, wishes = 5, 1000
	u := newUpstream(t, numbered(0))
	c := start(t, u.site(fmt.Sprintf("interval 50ms\nlinger 1h\nselectable /* /*/* /*/*/*\nmax_views %d", views)))
	live := c.open("h2", "/api/x", "")
	c.next(live)
	for i := 1; i < views; i++ {
		c.next(c.open("h2", fmt.Sprintf("/api/x?sse_select=/%d", i), ""))
	}
	before, began := c.footprint(), time.Now()
	for i := range wishes {
		forms := []string{"/x%d", "/a/b%d", "/~1~0/%%00%d/x", "/filler/[n=%d]", "/%%0A%d", "/*%d"}
		path := "/api/x?sse_select=" + fmt.Sprintf(forms[i%len(forms)], i)
		if err := c.turnedAway("h2", path); err != nil {
			t.Fatal(err)
		}
	}
	lines := strings.Count(c.log.String(), "limit reached")
	t.Logf("%d wishes in %v, with %d lines in the log", wishes, time.Since(began), lines)
	if lines > int(time.Since(began)/time.Second)+2 {
		t.Errorf("%d lines in the log", lines)
	}
	if n := c.metric(`caddy_poll_sse_refusals_total{limit="max_views"}`); n != wishes {
		t.Errorf("%d were turned away", n)
	}
	c.returnsTo(before)
	for _, format := range []string{"patch", "full", "merge"} {
		c.once("h2", "/api/x?sse_format="+format, "")
	}
	u.set(numbered(1))
	if e := c.next(live); !strings.Contains(e.Data, `"value":1}`) {
		t.Errorf("somebody else is sent %.100s", e.Data)
	}
}

// Clients that come and go at once leave nothing behind, disturb nobody and fill no log.
func TestConnectStorm(t *testing.T) {
	u := newUpstream(t, numbered(0))
	c := start(t, u.site("interval 50ms\nlinger 1s"))
	live := c.open("h2", "/api/x", "")
	c.next(live)
	c.next(c.open("h1", "/api/x", "")) // the connection that reads metrics is open as well
	before, complaints := c.footprint(), c.complaints()
	// The proxy keeps a connection for each poll that was under way at the same time.
	before.goroutines, before.files = before.goroutines+2*30, before.files+30
	lines := func() int { // but for those about this test's own requests
		return strings.Count(c.log.String(), "\n") - strings.Count(c.log.String(), `"logger":"admin.api"`)
	}
	logged := lines()
	lasts := max(3*time.Second, *long)
	came := map[string]*atomic.Int64{"h1": {}, "h2": {}, "h3": {}}
	var all sync.WaitGroup
	for _, protocol := range []string{"h1", "h1", "h1", "h1", "h2", "h3"} {
		all.Go(func() {
			for began := time.Now(); time.Since(began) < lasts; {
				if err := c.comeAndGo(protocol, int(came[protocol].Add(1))); err != nil {
					t.Errorf("%s: %v", protocol, err)
					return
				}
			}
		})
	}
	for n, began := 1, time.Now(); time.Since(began) < lasts; n++ {
		u.set(numbered(n))
		if e := c.next(live); !strings.Contains(e.Data, fmt.Sprintf(`"value":%d}`, n)) {
			t.Fatalf("somebody else is sent %.100s", e.Data)
		}
	}
	all.Wait()
	for protocol, n := range came {
		t.Logf("%s: %d clients came and went in %v", protocol, n.Load(), lasts)
	}
	c.eventually("they have left", func() bool { return c.metric("caddy_poll_sse_streams") == 2 })
	c.h3.CloseIdleConnections()
	c.returnsTo(before)
	if n := c.complaints() - complaints; n != 0 {
		t.Errorf("%d lines above info", n)
	}
	if n := lines() - logged; n > 20 {
		t.Errorf("%d lines in the log", n)
	}
}

// comeAndGo connects and leaves, without reading or in the middle of the first event.
func (c *caddy) comeAndGo(protocol string, number int) error {
	path := fmt.Sprintf("/api/x?%d", number%10)
	if protocol == "h1" {
		conn := c.raw(rawStream(path))
		if number%2 == 0 {
			conn.Read(make([]byte, 1))
		}
		return conn.Close()
	}
	s, err := c.connect(protocol, path, "")
	if err != nil {
		return err
	}
	if number%2 == 0 {
		s.response.Body.Read(make([]byte, 1))
	}
	s.close()
	return nil
}
