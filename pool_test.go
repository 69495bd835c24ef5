package pollsse

import (
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// A route that is no longer loaded is asked as long as it has streams that nobody
// has taken over, and not for those who may come back.
func TestUnloadedRoutesAreNotAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, &Handler{Interval: caddy.Duration(time.Second), Drain: caddy.Duration(1000 * time.Hour)})
		staying, leaving := s.get(s.h, "/stays"), s.get(s.h, "/leaves")
		synctest.Wait()
		leaving.leave()
		<-leaving.done
		newer := &site{t: t, server: new(caddyhttp.Server), answer: answering(`{"n":1}`)}
		newer.h = newer.provision(&Handler{Interval: s.h.Interval, Drain: s.h.Drain})
		if err := s.h.Cleanup(); err != nil {
			t.Error(err)
		}
		time.Sleep(2 * time.Second)
		before := s.count()
		time.Sleep(3 * time.Second)
		synctest.Wait()
		if n := s.count() - before; n < 2 || n > 4 {
			t.Errorf("%d polls through the old route in 3 s, for one stream", n)
		}
		staying.leave()
		<-staying.done
		before = s.count()
		time.Sleep(5 * time.Second)
		synctest.Wait()
		if n := s.count() - before; n != 0 {
			t.Errorf("%d polls through the old route for nobody", n)
		}
		back := newer.get(newer.h, "/stays", "Last-Event-ID", staying.events()[0].ID)
		time.Sleep(time.Second)
		synctest.Wait()
		if back.ended() || len(back.events()) != 0 || !strings.HasPrefix(back.text(), ":\n") {
			t.Errorf("who comes back to the same document is sent %q", back.text())
		}
		newer.close(back)
	})
}

// Of those that linger the one that nobody has needed for longest gives way, and
// one that is in use again never does.
func TestLongestIdleGivesWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, &Handler{MaxPollers: 3})
		for _, path := range []string{"/b", "/a", "/c"} {
			c := s.get(s.h, path)
			synctest.Wait()
			time.Sleep(time.Second)
			c.leave()
			<-c.done
		}
		s.h.pool.mu.Lock()
		var first *resource
		for _, r := range s.h.pool.byKey {
			if strings.HasSuffix(r.poller.target.uri, "/b") {
				first = r
			}
		}
		s.h.pool.mu.Unlock()
		d := s.get(s.h, "/d")
		synctest.Wait()
		select {
		case <-first.stopped:
		default:
			t.Error("another one than the longest idle gave way")
		}
		a := s.get(s.h, "/a")
		synctest.Wait()
		for _, r := range s.h.pool.byKey {
			if len(r.streams) > 0 {
				s.h.pool.expire(r, r.idleSince) // its timer was late
			}
		}
		if n := s.resources(); n != 3 || a.ended() {
			t.Errorf("%d resources", n)
		}
		s.close(a, d)
	})
}

// A withdrawn document makes room for a new resource, however long the last of its
// streams takes to end, and that one's end leaves the new resource alone.
func TestWithdrawnResourcesAreReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, new(Handler))
		pool, at := s.h.pool, target{uri: "/", originalURI: "/"}
		first, _ := pool.join(s.h, at)
		first.end(endWithdrawn)
		second, _ := pool.join(s.h, at)
		if second == first {
			t.Fatal("a new client follows what has ended")
		}
		first.close() // as its goroutine does by itself
		pool.leave(s.h, first)
		if third, _ := pool.join(s.h, at); third != second {
			t.Error("two resources for one document")
			pool.leave(s.h, third)
		} else {
			pool.leave(s.h, second)
		}
		pool.leave(s.h, second)
		if n := s.resources(); n != 0 || pool.streams != 0 {
			t.Errorf("%d resources, %d streams", n, pool.streams)
		}
		s.close()
	})
}

// Nothing lingers of a withdrawn document, and all streams are counted off.
func TestNothingLingersOfAWithdrawnDocument(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, &Handler{Interval: caddy.Duration(10 * time.Second)})
		client := s.get(s.h, "/")
		s.waitForPolls(1)
		s.setAnswer(func(w http.ResponseWriter, r *http.Request) error { w.WriteHeader(http.StatusGone); return nil })
		s.waitForPolls(1)
		between := s.get(s.h, "/") // waits for the confirmation
		<-client.done
		<-between.done
		s.h.pool.mu.Lock()
		streams := s.h.pool.streams
		s.h.pool.mu.Unlock()
		if n := s.resources(); n != 0 || streams != 0 {
			t.Errorf("%d resources, %d streams", n, streams)
		}
		s.close()
	})
}

// What is just being closed because it has lingered for long enough is waited for too.
func TestTheEndWaitsForWhatExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, &Handler{Linger: caddy.Duration(time.Second), Interval: caddy.Duration(100 * time.Millisecond)})
		client := s.get(s.h, "/")
		s.waitForPolls(1)
		client.leave()
		<-client.done
		var polling atomic.Bool
		s.setAnswer(func(w http.ResponseWriter, r *http.Request) error {
			polling.Store(true)
			<-r.Context().Done()
			time.Sleep(time.Second) // a route that takes its time to give up
			polling.Store(false)
			return r.Context().Err()
		})
		time.Sleep(1100 * time.Millisecond)
		if !polling.Load() {
			t.Fatal("the resource is gone already")
		}
		s.close()
		if polling.Load() {
			t.Error("it is still polled")
		}
	})
}
