package pollsse

import (
	"fmt"
	"net/http"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2"
)

// only returns the one resource of a site.
func only(t *testing.T, s *site) *resource {
	t.Helper()
	resources := s.h.pool.resources()
	if len(resources) != 1 {
		t.Fatalf("%d resources", len(resources))
	}
	return resources[0]
}

// How often operators ask says nothing of how seldom the document changes.
func TestOperatorsPollsDoNotStretchTheInterval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, &Handler{Interval: caddy.Duration(2 * time.Second), MaxInterval: caddy.Duration(time.Hour)})
		c := s.get(s.h, "/")
		synctest.Wait()
		r := only(t, s)
		before := r.info()
		for range 10 {
			time.Sleep(time.Millisecond)
			r.pollNow()
			synctest.Wait()
		}
		if after := r.info(); after.Interval != before.Interval || s.count() != 11 {
			t.Errorf("interval %d, then %d, %d polls", before.Interval, after.Interval, s.count())
		}
		s.close(c)
	})
}

// Nor does it say for how long the upstream fails.
func TestOperatorsPollsDoNotLengthenTheBackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, &Handler{Interval: caddy.Duration(time.Second)})
		c := s.get(s.h, "/")
		synctest.Wait()
		r := only(t, s)
		s.setAnswer(status(http.StatusBadGateway))
		for range 10 {
			r.pollNow()
			synctest.Wait()
		}
		if s.count() != 11 {
			t.Errorf("%d polls", s.count())
		}
		s.setAnswer(answering(`{"n":1}`))
		time.Sleep(2 * time.Second) // after one failure
		synctest.Wait()
		if info := r.info(); info.State != stateLive {
			t.Errorf("%+v", info)
		}
		s.close(c)
	})
}

// A withdrawal is confirmed a second later, however often operators ask.
func TestOperatorsConfirmNoWithdrawal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, &Handler{Interval: caddy.Duration(time.Hour)})
		c := s.get(s.h, "/")
		synctest.Wait()
		r := only(t, s)
		s.setAnswer(status(http.StatusUnauthorized))
		for range 5 {
			r.pollNow()
			synctest.Wait()
			time.Sleep(100 * time.Millisecond)
		}
		if r.isEnded() || s.count() != 2 {
			t.Errorf("after half a second: ended %v, %d polls", r.isEnded(), s.count())
		}
		s.setAnswer(answering(`{"n":1}`))
		time.Sleep(time.Second)
		synctest.Wait()
		if info := r.info(); info.State != stateLive || r.isEnded() {
			t.Errorf("%+v", info)
		}
		s.close(c)
	})
}

// Handlers of events are told of documents that turn, in turns, and of nothing that anybody
// can bring about by asking for what there is not. An unloaded configuration's are not.
func TestEventsAreOfDocuments(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, &Handler{Interval: caddy.Duration(time.Second)})
		var got []string
		emit := emitter(func(event string, data map[string]any) { got = append(got, fmt.Sprint(event, " ", data["status"])) })
		s.h.emit.Store(&emit)
		s.setAnswer(status(502))
		c := s.get(s.h, "/?secret")
		s.waitForPolls(1)
		for range 2 {
			s.setAnswer(answering(`1`))
			s.waitForPolls(2)
			s.setAnswer(status(404))
			s.waitForPolls(2)
		}
		s.setAnswer(answering(`<html>`))
		s.waitForPolls(2)
		if want := []string{"poll_sse.stale 404", "poll_sse.live 200", "poll_sse.stale 404"}; !slices.Equal(got, want) {
			t.Errorf("%q, want %q", got, want)
		}
		s.close(c)
		if s.h.emit.Load() != nil {
			t.Error("an unloaded handler keeps its configuration")
		}
	})
}

// A handler of an event may change the configuration and wait until that is done: the next
// poll waits for it, but not who ends the resource.
func TestEventsDoNotKeepResourcesFromEnding(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, &Handler{Interval: caddy.Duration(time.Second)})
		unloaded := make(chan struct{})
		emit := emitter(func(string, map[string]any) { <-unloaded })
		s.h.emit.Store(&emit)
		c := s.get(s.h, "/")
		s.waitForPolls(1)
		s.setAnswer(status(502))
		s.waitForPolls(1)
		before := s.count()
		time.Sleep(time.Minute)
		if n := s.count() - before; n != 0 {
			t.Errorf("%d polls while a handler runs", n)
		}
		s.close(c)
		close(unloaded)
	})
}

// Before the first poll has been answered, operators are told that there is none.
func TestOperatorsSeeWhatIsNotPolledYet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, &Handler{Timeout: caddy.Duration(3 * time.Second)})
		s.setAnswer(hanging)
		before := total(t, resourcesOpen, stateNew)
		c := s.get(s.h, "/a%20b?x=1&sse_format=full")
		synctest.Wait()
		info := only(t, s).info()
		if info.State != stateNew || info.LastPoll != nil || info.Path != "/a%20b" || info.Query != "x=1" || total(t, resourcesOpen, stateNew)-before != 1 {
			t.Errorf("%+v", info)
		}
		time.Sleep(4 * time.Second)
		synctest.Wait()
		if info = only(t, s).info(); info.State != stateStale || info.LastPoll == nil || info.LastPoll.Cause != "timeout" || info.LastPoll.Duration != 3000 || total(t, resourcesOpen, stateNew) != before {
			t.Errorf("%+v", info)
		}
		s.close(c)
	})
}

// A path is the same, escaped or not.
func TestSamePath(t *testing.T) {
	for path, want := range map[string]bool{"/caf%C3%A9/%2F": true, "/café//": true, "/café/%2F": false, "/cafe": false, "": false} {
		if got := samePath(path, "/caf%C3%A9/%2F"); got != want {
			t.Errorf("%s: %v", path, got)
		}
	}
}
