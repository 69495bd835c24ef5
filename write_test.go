package pollsse

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

func TestAtOrAbove(t *testing.T) {
	for _, c := range []struct {
		above, path string
		want        bool
	}{
		{"/api/items", "/api/items", true},
		{"/api/items", "/api/items/42", true},
		{"/api/items/", "/api/items/42", true},
		{"/api/items/", "/api/items", true},
		{"/api/items", "/api/items/", true},
		{"/api", "/api/items/42", true},
		{"/", "/api/items/42", true},
		{"/", "/", true},
		{"/api/items/42", "/api/items", false},
		{"/api/item", "/api/items", false},
		{"/api/items", "/api/other", false},
		{"/API", "/api/items", false},
		{"/a%2Fb", "/a/b/c", false},
	} {
		if got := atOrAbove(c.above, c.path); got != c.want {
			t.Errorf("%s for %s: %v", c.above, c.path, got)
		}
	}
}

// write sends a request that the route answers with a status.
func (s *site) write(method, url string, status int) {
	c := s.request(s.h, method, url, "X-Status", http.StatusText(status))
	<-c.done
	synctest.Wait()
}

// writable answers polls with the number of writes.
func (s *site) writable() {
	s.setAnswer(func(w http.ResponseWriter, r *http.Request) error {
		if r.Method == http.MethodGet {
			_, err := io.WriteString(w, "1")
			return err
		}
		for status := range 600 {
			if text := http.StatusText(status); text != "" && text == r.Header.Get("X-Status") {
				w.WriteHeader(status)
			}
		}
		if r.Header.Get("X-Status") == http.StatusText(http.StatusTeapot) {
			return caddyhttp.Error(http.StatusTeapot, errors.New("no"))
		}
		return nil
	})
}

func TestWritesPollAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, &Handler{Interval: caddy.Duration(time.Hour), MaxAge: -1})
		s.writable()
		clients := []*client{s.get(s.h, "http://example.com/api/items?page=1"), s.get(s.h, "http://example.com/api/other"), s.get(s.h, "http://example.org/api/items")}
		synctest.Wait()
		for _, c := range []struct {
			method, url string
			status      int
			polls       int
		}{
			{"POST", "http://example.com/api/items", 201, 1},
			{"PUT", "http://example.com/api/items/42", 200, 1},
			{"PATCH", "http://EXAMPLE.com/api/items/42", 204, 1},
			{"DELETE", "http://example.com/api/items/42?force", 303, 1},
			{"POST", "http://example.com/api/items", 0, 1}, // answers nothing, which is a 200
			{"POST", "http://example.com/api", 200, 0},
			{"POST", "http://example.com/api/items2", 200, 0},
			{"POST", "http://example.org/api/items", 200, 1},
			{"POST", "http://example.net/api/items", 200, 0},
			{"POST", "http://example.com/api/items", 400, 0},
			{"POST", "http://example.com/api/items", 500, 0},
			{"POST", "http://example.com/api/items", http.StatusTeapot, 0},
			{"GET", "http://example.com/api/items", 200, 0},
			{"HEAD", "http://example.com/api/items", 200, 0},
			{"OPTIONS", "http://example.com/api/items", 200, 0},
		} {
			time.Sleep(time.Second)
			before := s.count()
			s.write(c.method, c.url, c.status)
			if n := s.count() - before - 1; n != c.polls {
				t.Errorf("%s %s with %d: %d polls", c.method, c.url, c.status, n)
			}
		}
		s.close(clients...)
	})
}

// However many writes there are, there are ten polls a second at most, and one after the
// last write.
func TestManyWrites(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, &Handler{Interval: caddy.Duration(time.Hour)})
		var last atomic.Pointer[time.Time]
		s.setAnswer(func(w http.ResponseWriter, r *http.Request) error {
			if r.Method == http.MethodGet {
				last.Store(new(time.Now()))
				time.Sleep(30 * time.Millisecond)
				_, err := io.WriteString(w, "1")
				return err
			}
			return nil
		})
		c := s.get(s.h, "/")
		time.Sleep(time.Second)
		before := s.count()
		for range 1000 {
			s.write("POST", "/", 200)
			time.Sleep(time.Millisecond)
		}
		written := time.Now()
		time.Sleep(time.Second)
		if n := s.count() - before - 1000; n < 10 || n > 12 {
			t.Errorf("%d polls for the writes of a second", n)
		}
		if last.Load().Before(written.Add(-time.Millisecond)) {
			t.Errorf("the last poll was %v before the last write", written.Sub(*last.Load()))
		}
		s.close(c)
	})
}

// A write that is answered while a poll is on its way makes another one follow.
func TestWriteDuringAPoll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, &Handler{Interval: caddy.Duration(time.Hour)})
		var n atomic.Int64
		s.setAnswer(func(w http.ResponseWriter, r *http.Request) error {
			if r.Method == http.MethodPost {
				n.Add(1)
				return nil
			}
			value := n.Load()
			time.Sleep(3 * time.Second)
			_, err := fmt.Fprint(w, value)
			return err
		})
		c := s.get(s.h, "/")
		time.Sleep(time.Second)
		s.write("POST", "/", 200)
		time.Sleep(6 * time.Second)
		if events := c.events(); len(events) != 2 || events[1].Data != whole("1") {
			t.Errorf("%q", c.text())
		}
		s.close(c)
	})
}

// An upstream that fails, or wants to be left alone, is.
func TestWritesDuringBackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, &Handler{Interval: caddy.Duration(10 * time.Second)})
		s.writable()
		c := s.get(s.h, "/")
		s.waitForPolls(1)
		s.setAnswer(func(w http.ResponseWriter, r *http.Request) error {
			if r.Method == http.MethodPost {
				return nil
			}
			w.Header().Set("Retry-After", "300")
			w.WriteHeader(http.StatusServiceUnavailable)
			return nil
		})
		s.waitForPolls(1)
		for range 2 {
			began, before := time.Now(), s.count()
			for time.Since(began) < 9*time.Second {
				s.write("POST", "/", 200)
				time.Sleep(time.Second)
			}
			if n := s.count() - before - 9; n != 0 {
				t.Errorf("%d polls", n)
			}
			s.waitForPolls(1) // without Retry-After now, but still in backoff
			s.setAnswer(func(w http.ResponseWriter, r *http.Request) error {
				if r.Method == http.MethodGet {
					w.WriteHeader(500)
				}
				return nil
			})
			s.waitForPolls(1)
		}
		s.writable()
		s.waitForPolls(1)
		before := s.count()
		s.write("POST", "/", 200)
		if n := s.count() - before - 1; n != 1 {
			t.Errorf("%d polls after a good one", n)
		}
		s.close(c)
	})
}

// Writes without effect do not make polls rare.
func TestWritesDoNotStretchTheInterval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, &Handler{Interval: caddy.Duration(time.Second), MaxInterval: caddy.Duration(10 * time.Minute)})
		s.writable()
		c := s.get(s.h, "/")
		synctest.Wait()
		for range 20 {
			s.write("POST", "/login", 200)
			time.Sleep(100 * time.Millisecond)
		}
		before := s.count()
		time.Sleep(1200 * time.Millisecond)
		if s.count() == before {
			t.Error("no poll for more than a second")
		}
		s.close(c)
	})
}

// Writes change nothing about when an upstream is polled first, or that nobody is.
func TestWritesWithoutClients(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, new(Handler))
		s.writable()
		s.write("POST", "/", 200)
		if s.count() != 1 || s.resources() != 0 {
			t.Errorf("%d requests, %d resources", s.count(), s.resources())
		}
		s.close()
	})
}

// Whatever the route makes of a write, its path is the client's, as it is spelled.
func TestRewrittenWrites(t *testing.T) {
	for uri, want := range map[string]int{"http://example.com/a%20b/1": 1, "http://example.com/c/1": 0} {
		synctest.Test(t, func(t *testing.T) {
			s := newSite(t, &Handler{Interval: caddy.Duration(time.Hour)})
			c := s.get(s.h, "http://example.com/a%20b")
			synctest.Wait()
			r := received(t, uri, func(r *http.Request) { r.Method, r.URL.Path, r.URL.RawPath = http.MethodPost, "/a b", "" })
			if want > 0 {
				r.URL.Path = "/c"
			}
			s.setAnswer(func(w http.ResponseWriter, r *http.Request) error {
				if r.Method == http.MethodPost {
					r.Host, r.URL.Path = "internal", "/d"
				}
				return nil
			})
			if err := s.h.ServeHTTP(&client{header: make(http.Header)}, r, s); err != nil {
				t.Error(err)
			}
			time.Sleep(time.Second)
			if n := s.count() - 2; n != want {
				t.Errorf("%s: %d polls", uri, n)
			}
			s.close(c)
		})
	}
}

// watchful is a client that looks how many polls there were when it is answered.
type watchful struct {
	client
	polls func() int
	seen  int
}

func (w *watchful) WriteHeader(status int) {
	synctest.Wait()
	w.seen = w.polls()
	w.client.WriteHeader(status)
}

// Only the final answer counts, and whoever has it finds that the poll has begun, in all
// pools.
func TestAnswersToWrites(t *testing.T) {
	for _, c := range []struct {
		name     string
		statuses []int
		err      error
		polls    int
	}{
		{"success", []int{204}, nil, 1},
		{"information, then success", []int{103, 200}, nil, 1},
		{"information, then failure", []int{103, 500}, nil, 0},
		{"an error, nothing written", nil, errors.New("no"), 0},
		{"an error after success", []int{200}, errors.New("no"), 1},
		{"success after failure", []int{500, 200}, nil, 0},
	} {
		synctest.Test(t, func(t *testing.T) {
			s := newSite(t, &Handler{Interval: caddy.Duration(time.Hour)})
			other := newSite(t, &Handler{Interval: caddy.Duration(2 * time.Hour)})
			clients := []*client{s.get(s.h, "/"), other.get(other.h, "/")}
			time.Sleep(time.Second)
			s.setAnswer(func(w http.ResponseWriter, r *http.Request) error {
				if r.Method != http.MethodPost {
					return nil
				}
				for _, status := range c.statuses {
					w.WriteHeader(status)
				}
				return c.err
			})
			polls := func() int { return s.count() + other.count() - 3 }
			w := &watchful{client: client{header: make(http.Header)}, polls: polls, seen: 2 * c.polls}
			r := received(t, "/", func(r *http.Request) { r.Method = http.MethodPost })
			if err := s.h.ServeHTTP(w, r, s); err != c.err {
				t.Errorf("%s: %v", c.name, err)
			}
			synctest.Wait()
			if n := polls(); n != 2*c.polls || w.seen != n {
				t.Errorf("%s: %d polls, %d before the answer", c.name, n, w.seen)
			}
			other.close(clients...)
			s.close()
		})
	}
}
