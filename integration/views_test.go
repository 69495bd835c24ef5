package integration

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/pollsse/caddy-poll-sse/internal/oracle"
	"github.com/pollsse/caddy-poll-sse/internal/sse"
)

// stations is a list of 2,000 items, ten of which have changed since the version before,
// the 42nd in every tenth version. Each version shifts the list by one item.
func stations(version int) string {
	items := make([]string, 2000)
	for i := range items {
		n := version - (version-i%200+199)%200 // when it has changed last
		if i == 42 {
			n = version / 10 * 10
		}
		items[(i+version)%len(items)] = fmt.Sprintf(`{"station_id":"%d","name":"Station %d","bikes":%d,"docks":%d,"renting":true}`, i, i, n, 200-n)
	}
	return fmt.Sprintf(`{"last_updated":%d,"data":{"stations":[%s]}}`, 1700000000+version, strings.Join(items, ","))
}

// A client that selects one item is sent that item only, wherever it stands, over all
// protocols, and costs the upstream nothing.
func TestSelectedItem(t *testing.T) {
	u := newUpstream(t, stations(0))
	site := u.site("interval 20ms\nselectable /data/stations/* /data/stations/*/bikes")
	c := start(t, site)
	const versions = 40
	all := c.open("h1", "/api/stations", "")
	const item = "/data/stations/%5Bstation_id=42%5D"
	one := map[string]*connection{}
	for _, protocol := range protocols {
		one[protocol] = c.open(protocol, "/api/stations?sse_select="+item, "")
	}
	number := c.open("h2", "/api/stations?sse_format=full&sse_select="+item+"/bikes", "")

	var doc, last any
	var size int
	for version := range versions {
		u.set(stations(version))
		for want := value(t, stations(version)); !reflect.DeepEqual(doc, want); {
			e := c.next(all)
			size += e.Size
			doc = apply(t, doc, e.Data)
		}
		last, _ = oracle.Find(doc, "/data/stations/[station_id=42]")
	}
	for protocol, s := range one {
		var doc any
		small, events := 0, 0
		for ; !reflect.DeepEqual(doc, last); events++ {
			e := c.next(s)
			small += e.Size
			doc = apply(t, doc, e.Data)
		}
		if events != versions/10 {
			t.Errorf("%s: %d events", protocol, events)
		}
		t.Logf("%s: %d bytes, %.3f %% of the %d bytes of the whole", protocol, small, 100*float64(small)/float64(size), size)
		if small > size/100 {
			t.Errorf("%s: %d bytes of %d", protocol, small, size)
		}
	}
	for n := 0; n < versions; n += 10 {
		if e := c.next(number); e.Data != fmt.Sprint(n) {
			t.Errorf("number %s, want %d", e.Data, n)
		}
	}

	// Away and back: what was missed, or nothing.
	at := c.next(c.open("h1", "/api/stations?sse_select="+item, ""))
	u.set(stations(versions + 10))
	e := c.next(c.open("h1", "/api/stations?sse_select="+item, at.ID))
	want, _ := oracle.Find(value(t, stations(versions+10)), "/data/stations/[station_id=42]")
	if got := apply(t, apply(t, nil, at.Data), e.Data); !reflect.DeepEqual(got, want) {
		t.Errorf("%v, want %v", got, want)
	}

	// Its log survives a reload.
	if err := c.reload(site); err != nil {
		t.Fatal(err)
	}
	u.set(stations(versions + 20))
	var after sse.Event
	c.eventually("the new configuration sends an event", func() bool { // a connection may reach the old one, which is ending
		s, err := c.connect("h1", "/api/stations?sse_select="+item, e.ID)
		if err != nil {
			return false
		}
		defer s.close()
		after, err = c.tryNext(s)
		return err == nil
	})
	if after.Data != `[{"op":"replace","path":"/bikes","value":60},{"op":"replace","path":"/docks","value":140}]` && !strings.HasPrefix(after.Data, `[{"op":"replace","path":"","value":{"station_id":"42",`) {
		t.Errorf("after a reload: %+v", after)
	}
	if after.ID[:11] != e.ID[:11] {
		t.Errorf("the log of %s is %s after a reload", e.ID, after.ID)
	}
	if response, err := c.connect("h1", "/api/stations?sse_select=/data", ""); err != nil || response.response.StatusCode != 400 {
		t.Errorf("what is not selectable: %v, %v", response, err)
	}
}

// However many views there are, the upstream is polled as if there were one.
func TestViewsShareThePolls(t *testing.T) {
	u := newUpstream(t, stations(0))
	c := start(t, u.site("interval 100ms\nselectable /data/stations/* \nmax_views 33"))
	polls := func() time.Duration {
		began, before := time.Now(), u.count()
		c.eventually("polls go on", func() bool { return u.count() >= before+20 })
		n := u.count() - before
		took := time.Since(began)
		if most := int(took/(90*time.Millisecond)) + 2; n > most { // the first may have been under way
			t.Errorf("%d polls in %v", n, took)
		}
		return took
	}
	c.next(c.open("h2", "/api/stations", ""))
	few := polls()
	for i := range 32 {
		c.next(c.open("h2", fmt.Sprintf("/api/stations?sse_select=/data/stations/%d", i), ""))
		c.next(c.open("h2", fmt.Sprintf("/api/stations?sse_select=/data/stations/%d", i), ""))
	}
	many := polls()
	t.Logf("20 polls in %v with one view, in %v with 33", few, many)
	s, err := c.connect("h2", "/api/stations?sse_select=/data/stations/99", "")
	if err != nil {
		t.Fatal(err)
	}
	if e, err := s.Next(); err == nil || s.Retry < 15*time.Second {
		t.Errorf("one view too many: %v, retry %v", e, s.Retry)
	}
	if n := c.metric(`caddy_poll_sse_refusals_total{limit="max_views"}`); n != 1 {
		t.Errorf("%d refusals", n)
	}
	if strings.Contains(u.lastPoll().RequestURI, "sse_") {
		t.Errorf("polled %s", u.lastPoll().RequestURI)
	}
}

// Status events and pings are for those who ask, over a real connection too.
func TestStatus(t *testing.T) {
	u := newUpstream(t, numbered(1))
	c := start(t, u.site("interval 20ms\nheartbeat 50ms"))
	for _, protocol := range protocols {
		s := c.open(protocol, "/api/status?sse_status", "")
		expect := func(kind, data string) string {
			t.Helper()
			for {
				e := c.next(s)
				if e.Type == kind && strings.Contains(e.Data, data) {
					return e.ID
				}
				if e.Type != "ping" && e.Type != kind {
					t.Fatalf("%s: %+v", protocol, e)
				}
			}
		}
		expect("status", `"state":"live"`)
		id := expect("", "filler")
		expect("ping", "{}")
		u.set("secret")
		expect("status", `"upstream":"invalid"`)
		u.set(numbered(1))
		expect("status", `"state":"live"`)
		expect("ping", "{}")
		again := c.open(protocol, "/api/status?sse_status=true", id)
		if e := c.next(again); e.Type != "status" {
			t.Errorf("%s: %+v", protocol, e)
		}
		if e := c.next(again); e.Type != "ping" {
			t.Errorf("%s: at the head, but sent %+v", protocol, e)
		}
	}
}
