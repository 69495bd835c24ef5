package integration

import (
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// door is a way to reach a server.
type door struct {
	protocol string
	client   *http.Client
	base     string
}

func (d door) open(t *testing.T, path, lastEventID string, header ...string) *connection {
	t.Helper()
	var s *connection
	var err error
	connected := make(chan struct{})
	go func() {
		defer close(connected)
		s, err = connectTo(d.client, d.base+path, lastEventID, header...)
	}()
	select {
	case <-connected:
	case <-time.After(patience): // who holds events back may hold the header back too
		t.Fatalf("%s: no response", d.protocol)
	}
	if err != nil {
		t.Fatalf("%s: %v", d.protocol, err)
	}
	t.Cleanup(s.close)
	if !follows(s.response) {
		t.Fatalf("%s: %s with Content-Type %q", d.protocol, s.response.Status, s.response.Header.Get("Content-Type"))
	}
	return s
}

func (c *caddy) doors() (doors []door) {
	for _, protocol := range protocols {
		client, base := c.client(protocol)
		doors = append(doors, door{protocol, client, base})
	}
	return doors
}

// socket is where the site is served over HTTP/1.1.
func (c *caddy) socket() string { return filepath.Join(c.dir, "h1") }

// proxyPass is all that a location of nginx needs.
func (c *caddy) proxyPass() string {
	return "location / {\nproxy_pass http://unix:" + c.socket() + ";\n}"
}

// fronts are what stands between Caddy and clients, with their default settings but for
// what the name says.
var fronts = []struct {
	name   string
	around string // in the site
	option string // of the directive
	gzip   bool   // clients that accept it get it
	doors  func(t *testing.T, back *caddy) []door
}{
	{"nginx", "", "", true, func(t *testing.T, back *caddy) []door {
		return startNginx(t, "", back.proxyPass()).doors()
	}},
	{"nginx, gzip_types", "", "", true, func(t *testing.T, back *caddy) []door {
		return startNginx(t, "gzip_types text/event-stream;", back.proxyPass()).doors()
	}},
	{"nginx, gzip_types, compress off", "", "compress off", true, func(t *testing.T, back *caddy) []door {
		return startNginx(t, "gzip_types text/event-stream;", back.proxyPass()).doors()
	}},
	{"nginx, proxy_http_version 1.1", "", "", true, func(t *testing.T, back *caddy) []door {
		return startNginx(t, "proxy_http_version 1.1;\nproxy_set_header Connection '';", back.proxyPass()).doors()
	}},
	{"nginx behind nginx, proxy_pass_header X-Accel-Buffering", "", "", true, func(t *testing.T, back *caddy) []door {
		inner := startNginx(t, "proxy_pass_header X-Accel-Buffering;", back.proxyPass())
		return startNginx(t, "", "location / {\nproxy_pass http://unix:"+inner.socket()+";\n}").doors()
	}},
	{"Caddy", "", "", true, func(t *testing.T, back *caddy) []door {
		return start(t, "reverse_proxy unix/"+back.socket()).doors()
	}},
	{"Caddy, encode", "", "", true, func(t *testing.T, back *caddy) []door {
		return start(t, "encode\nreverse_proxy unix/"+back.socket()).doors()
	}},
	{"Caddy, encode, compress off", "", "compress off", false, func(t *testing.T, back *caddy) []door {
		return start(t, "encode\nreverse_proxy unix/"+back.socket()).doors()
	}},
	{"Caddy, over HTTP2", "", "", true, func(t *testing.T, back *caddy) []door {
		return start(t, "encode\nreverse_proxy https://"+back.address()+" {\nheader_up Host localhost\ntransport http {\ntls_server_name localhost\ntls_insecure_skip_verify\n}\n}").doors()
	}},
	{"encode in the same site", "encode", "", true, func(t *testing.T, back *caddy) []door {
		return back.doors()
	}},
}

// encodings are what clients accept; "" says nothing about it.
var encodings = []string{"gzip", "identity", ""}

// Whatever stands in front with its default settings, events come at once, the end of
// a stream is its end, the client resumes, and is missed when it has left.
func TestFronts(t *testing.T) {
	for _, front := range fronts {
		t.Run(front.name, func(t *testing.T) {
			u := newUpstream(t, catalogue(0))
			site := front.around + "\n" + u.site("interval 10ms\ndrain 100ms\n"+front.option)
			back := start(t, site)
			direct := back.open("h1", "/api/x", "")
			back.next(direct)
			var streams []*connection
			doors := front.doors(t, back)
			for _, d := range doors {
				for _, encoding := range encodings {
					s := d.open(t, "/api/x", "", acceptEncoding(encoding)...)
					back.next(s)
					streams = append(streams, s)
					if got := s.response.Header.Get("Content-Encoding"); (got == "gzip") != (front.gzip && encoding == "gzip") {
						t.Errorf("%s: who accepts %q gets Content-Encoding %q", d.protocol, encoding, got)
					}
				}
			}
			late := eventsAtOnce(t, back, u, direct, streams)
			t.Logf("events came %v (median), %v (at most) after those without it", late[len(late)/2], late[len(late)-1])
			if worst := late[len(late)-1]; worst > 5*time.Second {
				t.Errorf("an event came %v late", worst)
			}

			ids := lastIDs(t, back, u, streams)
			if err := back.reload(site); err != nil {
				t.Fatal(err)
			}
			for i, s := range streams {
				if e, err := back.tryNext(s); err != io.EOF {
					t.Errorf("stream %d ended with %v (%.100s)", i, err, e.Data)
				}
			}
			back.tryNext(direct)
			direct = back.open("h1", "/api/x", ids[0])
			u.set(catalogue(events + 2))
			back.next(direct)
			for i, s := range streams {
				again := doors[i/len(encodings)].open(t, "/api/x", ids[i], acceptEncoding(encodings[i%len(encodings)])...)
				if e := back.next(again); !strings.Contains(e.Data, fmt.Sprintf(`"path":"/version","value":%d}`, events+2)) {
					t.Errorf("stream %d resumed with %.100s", i, e.Data)
				}
				s.close()
				again.close()
			}
			direct.close()
			back.eventually("nobody is left", func() bool { return back.metric("caddy_poll_sse_streams") == 0 })
		})
	}
}

func acceptEncoding(encoding string) []string {
	if encoding == "" {
		return nil
	}
	return []string{"Accept-Encoding", encoding}
}

// events is how many are waited for one by one.
const events = 5

// eventsAtOnce changes the document when all have got the event before, and returns how
// much later than the direct stream the others got each event, in order.
func eventsAtOnce(t *testing.T, back *caddy, u *upstream, direct *connection, streams []*connection) (late []time.Duration) {
	t.Helper()
	for n := 1; n <= events; n++ {
		arrived := make([]time.Time, len(streams)+1)
		u.set(catalogue(n))
		var all sync.WaitGroup
		for i, s := range append(slices.Clone(streams), direct) {
			all.Go(func() {
				e, err := back.tryNext(s)
				if err != nil || !strings.Contains(e.Data, fmt.Sprintf(`"path":"/version","value":%d}`, n)) {
					t.Errorf("stream %d: %v instead of version %d: %.100s", i, err, n, e.Data)
				}
				arrived[i] = time.Now()
			})
		}
		all.Wait()
		if t.Failed() {
			t.FailNow()
		}
		for _, at := range arrived[:len(streams)] {
			late = append(late, at.Sub(arrived[len(streams)]))
		}
	}
	slices.Sort(late)
	return late
}

// lastIDs sends one more event, and returns the id that each client has.
func lastIDs(t *testing.T, back *caddy, u *upstream, streams []*connection) (ids []string) {
	t.Helper()
	u.set(catalogue(events + 1))
	for _, s := range streams {
		ids = append(ids, back.next(s).ID)
	}
	return ids
}

// Streams go on while nginx is reloaded, and resume when it was restarted.
func TestNginxReloadsAndRestarts(t *testing.T) {
	u := newUpstream(t, catalogue(0))
	back := start(t, u.site("interval 10ms"))
	n := startNginx(t, "", back.proxyPass())
	live := back.open("h1", "/api/x", "")
	back.next(live)
	for _, d := range n.doors() {
		for _, encoding := range encodings {
			u.set(catalogue(0))
			path := "/api/x?" + d.protocol + encoding
			live := back.open("h1", path, "")
			back.next(live)
			s := d.open(t, path, "", acceptEncoding(encoding)...)
			back.next(s)
			n.reload()
			joined := d.open(t, path, "", acceptEncoding(encoding)...)
			back.next(joined)
			u.set(catalogue(1))
			e := back.next(s)
			for _, other := range []*connection{live, joined} {
				if got := back.next(other); got != e {
					t.Errorf("%s: %+v and %+v", path, got, e)
				}
			}
			n.stop()
			if _, err := back.tryNext(s); err == nil || err == errSilence {
				t.Errorf("%s: nginx has ended, the stream with %v", path, err)
			}
			for v := 2; v < 4; v++ {
				u.set(catalogue(v))
				back.next(live)
			}
			n.run()
			s = d.open(t, path, e.ID, acceptEncoding(encoding)...)
			for v := 2; v < 4; v++ {
				if e := back.next(s); !strings.Contains(e.Data, fmt.Sprintf(`"path":"/version","value":%d}`, v)) {
					t.Errorf("%s: version %d came as %.100s", path, v, e.Data)
				}
			}
		}
	}
}

// Heartbeats keep the time away after which nginx gives a silent backend up.
func TestHeartbeatsBehindNginx(t *testing.T) {
	u := newUpstream(t, catalogue(0))
	back := start(t, u.site("interval 10ms\nheartbeat 300ms")+"\n"+strings.ReplaceAll(u.site("interval 10ms\nheartbeat 1h"), "/api/", "/silent/"))
	for _, d := range startNginx(t, "proxy_read_timeout 5s;", back.proxyPass()).doors() {
		u.set(catalogue(0))
		s, silent := d.open(t, "/api/"+d.protocol, ""), d.open(t, "/silent/"+d.protocol, "")
		back.next(s)
		id := back.next(silent).ID
		began := time.Now()
		if _, err := back.tryNext(silent); err == nil || err == errSilence {
			t.Errorf("%s: nothing was sent, but the stream ended with %v", d.protocol, err)
		}
		t.Logf("%s: without heartbeats the stream ended after %v", d.protocol, time.Since(began))
		u.set(catalogue(1)) // the other one, which was there before it, goes on
		if e := back.next(s); !strings.Contains(e.Data, `"path":"/version","value":1}`) {
			t.Errorf("%s: %.100s", d.protocol, e.Data)
		}
		if e := back.next(d.open(t, "/silent/"+d.protocol, id)); !strings.Contains(e.Data, `"path":"/version","value":1}`) {
			t.Errorf("%s: resumed with %.100s", d.protocol, e.Data)
		}
	}
}

// nginx keeps the header to itself that tells it not to hold events back, so that
// another one before it does.
func TestNginxBehindNginxHoldsEventsBack(t *testing.T) {
	u := newUpstream(t, catalogue(0))
	site := u.site("interval 10ms\ndrain 10ms")
	back := start(t, site)
	inner := startNginx(t, "", back.proxyPass())
	outer := startNginx(t, "", "location / {\nproxy_pass http://unix:"+inner.socket()+";\n}").doors()[0]
	came := make(chan error, 1)
	go func() {
		s, err := connectTo(outer.client, outer.base+"/api/x", "")
		if err == nil {
			_, err = s.Next()
			s.close()
		}
		came <- err
	}()
	back.next(back.open("h1", "/api/x", ""))
	back.eventually("both are connected", func() bool { return back.metric("caddy_poll_sse_streams") == 2 })
	select {
	case err := <-came:
		t.Errorf("an event came (%v): docs/clients.md says otherwise", err)
	case <-time.After(time.Second):
	}
	if err := back.reload(site); err != nil { // ends the stream
		t.Fatal(err)
	}
	select {
	case err := <-came:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(patience):
		t.Error("the stream did not end")
	}
}

// documentedNginx is what docs/clients.md advises where Caddy may be down.
func documentedNginx(t *testing.T, back *caddy) string {
	t.Helper()
	locations := blocksOf(t, "docs/clients.md", "nginx")[0]
	if strings.Count(locations, "http://127.0.0.1:8080") != 1 {
		t.Fatalf("docs/clients.md has %q", locations)
	}
	return strings.Replace(locations, "http://127.0.0.1:8080", "http://unix:"+back.socket(), 1)
}

// A proxy's 502 would end an EventSource for good. Clients that come while Caddy
// restarts are told to come again, or wait, and resume.
func TestCaddyRestartsBehindFronts(t *testing.T) {
	u := newUpstream(t, catalogue(0))
	back := start(t, u.site("interval 10ms"))
	proxy := "reverse_proxy unix/" + back.socket()
	fronts := map[string]struct {
		door  door
		waits bool
		lasts bool // an EventSource does
	}{
		"nginx":         {startNginx(t, "", back.proxyPass()).doors()[0], false, false},
		"nginx, later":  {startNginx(t, "", documentedNginx(t, back)).doors()[0], false, true},
		"Caddy":         {start(t, proxy).doors()[0], false, false},
		"Caddy, trying": {start(t, proxy+" {\nlb_try_duration 30s\n}").doors()[0], true, true},
	}
	ids := make(map[string]string)
	for name, front := range fronts {
		s := front.door.open(t, "/api/x", "")
		ids[name] = back.next(s).ID
		defer s.close()
	}
	back.terminate()
	u.set(catalogue(1))
	var all sync.WaitGroup
	for name, front := range fronts {
		come := func() (*connection, error) { return connectTo(front.door.client, front.door.base+"/api/x", ids[name]) }
		if !front.waits {
			s, err := come()
			if err != nil {
				t.Fatal(err)
			}
			if follows(s.response) != front.lasts {
				t.Errorf("%s answers with %s", name, s.response.Status)
			}
			if _, err := s.Next(); front.lasts && (err != io.EOF || s.Retry != 5*time.Second) {
				t.Errorf("%s: %v, retry %v", name, err, s.Retry)
			}
			s.close()
			continue
		}
		all.Go(func() {
			s, err := come()
			if err != nil {
				t.Error(err)
				return
			}
			defer s.close()
			if e, err := back.tryNext(s); err != nil || !strings.Contains(e.Data, `"version":1`) {
				t.Errorf("%s: %v, %.100s", name, err, e.Data)
			}
		})
	}
	back.run(u.site("interval 10ms"))
	all.Wait()
	for name, front := range fronts {
		if e := back.next(front.door.open(t, "/api/x", ids[name])); !strings.Contains(e.Data, `"version":1`) {
			t.Errorf("%s: resumed with %.100s", name, e.Data)
		}
	}
}
