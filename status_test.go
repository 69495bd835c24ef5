package pollsse

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/pollsse/caddy-poll-sse/internal/sse"
)

func TestStatusEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, &Handler{Interval: caddy.Duration(1500 * time.Millisecond)})
		told, plain := s.get(s.h, "/?sse_status=1"), s.get(s.h, "/")
		synctest.Wait()
		seen := 0
		// expect takes the events that have come since the last call.
		expect := func(what string, want ...string) {
			t.Helper()
			events := told.events()
			var got []string
			for _, e := range events[seen:] {
				if e.Type == "" {
					got = append(got, "document")
				}
				if e.Type != eventStatus {
					continue
				}
				var status map[string]any
				if err := json.Unmarshal([]byte(e.Data), &status); err != nil || len(status) != 5 || status["heartbeat"] != 15000. {
					t.Errorf("%s: %v", e.Data, err)
				}
				since, err := time.Parse(time.RFC3339, fmt.Sprint(status["since"]))
				if err != nil || since.Location() != time.UTC {
					t.Errorf("%s: %v", e.Data, err)
				}
				got = append(got, fmt.Sprint(status["state"], " ", status["upstream"], " ", status["interval"], " ", time.Since(since).Round(10*time.Millisecond)))
			}
			seen = len(events)
			slices.Sort(got)
			if fmt.Sprint(got) != fmt.Sprint(want) {
				t.Errorf("%s: %q, want %q", what, got, want)
			}
		}
		expect("at the start", "document", "live 200 1500 0s")
		if !strings.Contains(told.text(), "\nretry: ") || !strings.Contains(told.text(), "event: status\n\ndata: [") {
			t.Errorf("%q", told.text())
		}
		s.setAnswer(status(502))
		s.waitForPolls(1)
		expect("a failure", "stale 502 1500 0s")
		s.setAnswer(answering("<html>"))
		s.waitForPolls(2)
		expect("another one")
		late := s.get(s.h, "/?sse_status=1")
		synctest.Wait()
		if e := late.events(); len(e) != 2 || !strings.Contains(e[0].Data, `"state":"stale"`) || !strings.Contains(e[0].Data, `"upstream":"invalid"`) {
			t.Errorf("%q", late.text())
		}
		s.setAnswer(answering(`{"n":2}`))
		s.waitForPolls(1)
		expect("recovery", "document", "live 200 1500 0s")
		pings := func() int { return strings.Count(told.text(), "data: {}\nevent: ping\n\n") }
		before := pings()
		time.Sleep(time.Minute)
		if n := pings() - before; n < 3 || n > 5 {
			t.Errorf("%d heartbeats in a minute", n)
		}
		if strings.Contains(told.text()[2:], "\n:\n") {
			t.Error("pings, and comments too")
		}
		for _, e := range told.events() {
			if e.Type != "" && !strings.HasPrefix(e.Data, "{") {
				t.Errorf("%+v", e)
			}
		}
		if text := plain.text(); strings.Contains(text, "event:") || len(plain.events()) != 2 {
			t.Errorf("who did not ask is told %q", text)
		}
		if strings.Count(told.text(), "\nid: ") != 2 {
			t.Errorf("a notice has an id: %q", told.text())
		}
		s.close(told, plain, late)
	})
}

// Before the first poll has ended there is nothing to tell but that.
func TestStatusBeforeTheFirstPoll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, &Handler{Interval: caddy.Duration(time.Minute), Timeout: caddy.Duration(8 * time.Second)})
		s.setAnswer(hanging)
		c := s.get(s.h, "/?sse_status=1")
		time.Sleep(10 * time.Second)
		synctest.Wait()
		e := slices.DeleteFunc(c.events(), func(e sse.Event) bool { return e.Type == eventPing })
		if len(e) != 2 || !strings.Contains(e[0].Data, `"upstream":"pending"`) || !strings.Contains(e[1].Data, `"upstream":"timeout"`) {
			t.Errorf("%q", c.text())
		}
		s.close(c)
	})
}

// A new configuration's clients are told what its own route has answered, the old one's
// what theirs has.
func TestStatusOfGenerations(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, &Handler{Interval: caddy.Duration(time.Second)})
		old := s.get(s.h, "/?sse_status")
		synctest.Wait()
		newer := s.reloaded(func(w http.ResponseWriter, r *http.Request) error {
			time.Sleep(8 * time.Second)
			w.WriteHeader(500)
			return nil
		})
		fresh := newer.get(newer.h, "/?sse_status")
		time.Sleep(20 * time.Second)
		synctest.Wait()
		told := func(c *client) (said []string) {
			for _, e := range c.events() {
				if e.Type == eventStatus {
					state, rest, _ := strings.Cut(e.Data, `","since`)
					_, rest, _ = strings.Cut(rest, `"upstream":`)
					said = append(said, state[len(`{"state":"`):]+" "+strings.Split(rest, ",")[0])
				}
			}
			return said
		}
		if got := fmt.Sprintf("%q", told(old)); got != `["live 200"]` {
			t.Errorf("the old one's: %s", got)
		}
		if got := fmt.Sprintf("%q", told(fresh)); got != `["stale \"pending\"" "stale 500"]` {
			t.Errorf("the new one's: %s", got)
		}
		s.close(old)
		newer.close(fresh)
	})
}

// The interval told is the one that has adapted, from the first failure on.
func TestStatusTellsTheInterval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, &Handler{Interval: caddy.Duration(time.Second), MaxInterval: caddy.Duration(4 * time.Second)})
		s.setAnswer(status(500))
		var clients []*client
		for _, want := range []string{`"interval":1000,`, `"interval":4000,`} {
			c := s.get(s.h, "/?sse_status")
			synctest.Wait()
			if e := c.events(); len(e) == 0 || !strings.Contains(e[0].Data, want) {
				t.Errorf("%q, want %s", c.text(), want)
			}
			clients = append(clients, c)
			s.setAnswer(answering("1"))
			s.waitForPolls(10)
		}
		s.close(clients...)
	})
}

func TestTimesAreToldInMilliseconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(1_999_999)
		if at := now(); at.Nanosecond() != 1_000_000 {
			t.Error(at)
		}
	})
}

// Who asks for it where there is an inspector is told about each poll.
func TestStatusOfEachPoll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, &Handler{Inspect: "/inspect"})
		c := s.get(s.h, "/?sse_status=polls")
		synctest.Wait()
		tell := func(answer caddyhttp.HandlerFunc) {
			s.setAnswer(func(w http.ResponseWriter, r *http.Request) error {
				time.Sleep(250 * time.Millisecond)
				return answer(w, r)
			})
			s.waitForPolls(1)
			time.Sleep(250 * time.Millisecond)
			synctest.Wait()
		}
		tell(answering(`{ "n": 1 }`))
		tell(answering(`{ "n": 22 }`))
		tell(answering(`nothing`))
		tell(status(404))
		tell(answering(`{ "n": 22 }`))
		var got []string
		for _, e := range c.events() {
			if e.Type != eventStatus {
				continue
			}
			var status upstreamStatus
			if err := json.Unmarshal([]byte(e.Data), &status); err != nil || status.Poll == nil {
				t.Fatalf("%s: %v", e.Data, err)
			}
			got = append(got, fmt.Sprint(status.State, " ", *status.Poll))
		}
		want := []string{
			"live {changed 0 7}", "live {unchanged 250 10}", "live {changed 250 11}",
			"stale {rejected 250 11}", "stale {failed 250 11}", "live {unchanged 250 11}",
		}
		if !slices.Equal(got, want) {
			t.Errorf("%q, want %q", got, want)
		}
		s.close(c)
	})
}

// An operator would not show more than a class.
func TestStatusIsTerse(t *testing.T) {
	for _, c := range []struct {
		result pollResult
		want   string
	}{
		{pollResult{kind: pollChanged, status: 200}, `"state":"live","upstream":200`},
		{pollResult{kind: pollNotModified, status: 304}, `"state":"live","upstream":304`},
		{pollResult{kind: pollFailed, status: 503, cause: "status"}, `"state":"stale","upstream":503`},
		{pollResult{kind: pollFailed, status: 302, cause: "redirect"}, `"state":"stale","upstream":302`},
		{pollResult{kind: pollRejected, status: 200, cause: "invalid", err: fmt.Errorf("secret")}, `"state":"stale","upstream":"invalid"`},
		{pollResult{kind: pollFailed, cause: "timeout", err: fmt.Errorf("secret")}, `"state":"stale","upstream":"timeout"`},
	} {
		var s upstreamStatus
		s.update(c.result, time.Second)
		s.Poll = nil
		event := string(s.event())
		data, _, _ := strings.Cut(event, `,"since":"`)
		_, rest, _ := strings.Cut(event, `Z","`)
		if got := strings.TrimPrefix(data, "data: {") + `,"` + strings.TrimSuffix(rest, ",\"interval\":1000,\"heartbeat\":0}\nevent: status\n\n"); got != c.want {
			t.Errorf("%q, want %s", event, c.want)
		}
	}
}

// A client that comes between the publication of a poll and what follows it is not told
// that the poll is pending.
func TestClientsWaitForTheStatus(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newResource(&Handler{}, target{}, "")
		defer r.close()
		for generation := uint64(1); generation < 3; generation++ {
			h := &Handler{generation: generation, draining: make(chan struct{}), logger: zap.NewNop()}
			src := &source{handler: h}
			r.source = src // polls nothing: it is not woken
			result := pollResult{kind: pollChanged, status: 200, document: parse(t, "1"), changed: true}
			r.publish(result, generation)
			told := make(chan upstreamStatus)
			go func() {
				r.firstPoll(t.Context(), h, false)
				status, _ := r.upstream(h, turnNotices)
				told <- status
			}()
			synctest.Wait()
			r.settle(t.Context(), src, result)
			if s := <-told; s.State != stateLive {
				t.Errorf("generation %d: %+v", generation, s)
			}
		}
	})
}
