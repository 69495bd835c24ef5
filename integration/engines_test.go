package integration

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// engines are those that are simulated.
var engines = map[string]func() engine{
	"WebKit":  func() engine { return newWebKit(safariAgent) },
	"Firefox": func() engine { return newFirefox() },
}

// slicing is a Caddy behind a knife.
type slicing struct {
	t     *testing.T
	u     *upstream
	c     *caddy
	knife *httptest.Server
	paths int
}

func newSlicing(t *testing.T) *slicing {
	u := newUpstream(t, catalogue(0))
	c := start(t, u.site("interval 10ms\nretry 7s 7s\nheartbeat 1h\nlinger 100ms"))
	return &slicing{t: t, u: u, c: c, knife: newKnife(t, c)}
}

// path returns one that nobody has asked for yet.
func (s *slicing) path(format string) string {
	s.paths++
	return fmt.Sprintf("/api/%d?sse_format=%s", s.paths, format)
}

// follow lets a visitor be cut for each list of cuts, and returns them all.
func (s *slicing) follow(t *testing.T, newEngine func() engine, format string, first int, cleanly bool, cuts [][]int) (visitors []*visitor) {
	t.Helper()
	path := s.path(format)
	for _, cut := range cuts {
		visitors = append(visitors, &visitor{engine: newEngine(), format: format, url: s.knife.URL + path, cuts: cut, cleanly: cleanly})
	}
	follow(t, s.c, s.u, path, first, visitors)
	return visitors
}

// expectRight reports what has gone wrong with visitors, the first few of them.
func expectRight(t *testing.T, first, second int, visitors []*visitor) {
	t.Helper()
	wrong := 0
	for _, f := range visitors {
		if f.wrong == nil {
			continue
		}
		if wrong++; wrong <= 5 {
			t.Errorf("cut after %v bytes, the first event ends at %d and the second at %d: %v", f.cuts, first, second, f.wrong)
		}
	}
	t.Logf("cut after %v to %v bytes: %d of %d went wrong", visitors[0].cuts, visitors[len(visitors)-1].cuts, wrong, len(visitors))
}

// Whatever byte of two events and what comes before them a connection is cut after, each
// engine's EventSource goes on with the right document: its listeners get no empty event,
// no foreign one, no version twice, and miss none.
func TestEnginesCutAtEveryByte(t *testing.T) {
	s := newSlicing(t)
	for name, newEngine := range engines {
		for _, format := range []string{"patch", "full", "merge"} {
			first, second := lengths(t, s.c, s.u, s.path(format), newEngine())
			var cuts [][]int
			for k := range second + 1 {
				cuts = append(cuts, []int{k})
			}
			t.Run(name+"/"+format, func(t *testing.T) {
				expectRight(t, first, second, s.follow(t, newEngine, format, first, false, cuts))
			})
			if format == "patch" {
				t.Run(name+"/cleanly", func(t *testing.T) {
					expectRight(t, first, second, s.follow(t, newEngine, format, first, true, cuts))
				})
			}
		}
	}
}

// The same for WebKit, which keeps what was received of an event, where the next
// connection is cut too: at every byte of what it begins with, and many of the event
// after that.
func TestWebKitCutAgain(t *testing.T) {
	s := newSlicing(t)
	newEngine := engines["WebKit"]
	first, second := lengths(t, s.c, s.u, s.path("patch"), newEngine())
	for name, end := range map[string]int{"first event": first, "second event": second} {
		var cuts [][]int
		// In the data, at its end, in the id, before and after the end of its line.
		for _, before := range []int{40, 34, 20, 2, 1} {
			for k := 0; k <= first; k++ {
				if k > 70 {
					k += 18
				}
				cuts = append(cuts, []int{end - before, k})
			}
		}
		t.Run(name, func(t *testing.T) {
			expectRight(t, first, second, s.follow(t, newEngine, "patch", first, false, cuts))
		})
	}
}

// Without what poll_sse sends to WebKit only, WebKit goes wrong wherever it is cut in a
// line of data: so the tests above would notice.
func TestWebKitWithoutItsPreamble(t *testing.T) {
	s := newSlicing(t)
	disguised := func() engine { return newWebKit(chromeAgent) }
	first, _ := lengths(t, s.c, s.u, s.path("patch"), disguised())
	var cuts [][]int
	for k := first - 200; k < first-40; k += 10 {
		cuts = append(cuts, []int{k})
	}
	for _, f := range s.follow(t, disguised, "patch", first, false, cuts) {
		if f.wrong == nil {
			t.Errorf("cut after %v of %d bytes, nothing goes wrong", f.cuts, first)
		}
	}
}

// WebKit reads lines again from their start as they come in, so long ones cost much.
func TestLargeDocumentsInWebKit(t *testing.T) {
	items := strings.Repeat(`{"name":"lorem ipsum, dolor [sit]"},`, 10_000)
	u := newUpstream(t, "["+items+"null]")
	c := start(t, u.site(""))
	effort := func(header ...string) float64 {
		w := newWebKit(safariAgent)
		s := c.open("h1", "/api/x?sse_format=full", "", header...)
		defer s.close()
		timer := time.AfterFunc(patience, s.cancel)
		defer timer.Stop()
		received := 0
		for b := make([]byte, 8<<10); ; {
			n, err := s.response.Body.Read(b)
			if received += n; err != nil {
				t.Fatal(err)
			}
			if len(w.receive(b[:n])) > 0 {
				return float64(w.looked) / float64(received)
			}
		}
	}
	lines := effort()
	w, size := newWebKit(safariAgent), len(items)
	for rest := "data: " + items + "\n\n"; rest != ""; rest = rest[min(8<<10, len(rest)):] {
		w.receive([]byte(rest[:min(8<<10, len(rest))]))
	}
	line := float64(w.looked) / float64(size)
	t.Logf("WebKit looks at each of %d bytes %.1f times, in one line %.1f times", size, lines, line)
	if lines > 10 || line < 2*lines {
		t.Error("want at most 10, and far more in one line")
	}
}

// Neither a limit nor a reload ends an EventSource for good, and each engine waits as
// long as it is told.
func TestEnginesComeBack(t *testing.T) {
	u := newUpstream(t, catalogue(0))
	site := u.site("max_streams 1\nretry 7s 7s\ndrain 10ms")
	for name, newEngine := range engines {
		t.Run(name, func(t *testing.T) {
			c := start(t, site)
			client, base := c.client("h1")
			connect := func(e engine) *http.Response {
				request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, base+"/api/x", nil)
				if err != nil {
					t.Fatal(err)
				}
				request.Header = e.header()
				response, err := client.Do(request)
				if err != nil {
					t.Fatal(err)
				}
				if !follows(response) {
					t.Fatalf("%s with Content-Type %q ends an EventSource", response.Status, response.Header.Get("Content-Type"))
				}
				return response
			}
			read := func(e engine, response *http.Response) (messages []message) {
				body, err := io.ReadAll(response.Body)
				if err != nil {
					t.Errorf("the stream ended with %v", err)
				}
				response.Body.Close()
				messages = e.receive(body)
				e.end(true)
				return messages
			}
			a, b := newEngine(), newEngine()
			response := connect(a)
			if messages := read(b, connect(b)); len(messages) > 0 || b.reconnectsAfter() < 15*time.Second || b.reconnectsAfter() > time.Minute {
				t.Errorf("turned away: %+v, reconnects after %v", messages, b.reconnectsAfter())
			}
			if err := c.reload(site); err != nil {
				t.Fatal(err)
			}
			if messages := read(a, response); len(messages) != 1 || a.header().Get("Last-Event-ID") != messages[0].lastEventID || a.reconnectsAfter() != 7*time.Second {
				t.Errorf("reloaded: %+v, reconnects after %v with %v", messages, a.reconnectsAfter(), a.header())
			}
		})
	}
}
