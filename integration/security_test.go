package integration

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"
)

// private answers with a document that says whose it is, and changes all the time.
func private(owner func(*http.Request) string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, `{"owner":%q,"at":%d,"filler":%q}`, owner(r), time.Now().UnixNano(), filler)
	}
}

func TestForwardedHeadersDivideClients(t *testing.T) {
	u := newUpstream(t, "")
	u.setAnswer(private(func(r *http.Request) string { return r.Header.Get("Authorization") + r.Header.Get("Cookie") }))
	c := start(t, u.site("interval 10ms\nforward_header Authorization Cookie"))
	for _, protocol := range protocols {
		var streams []*connection
		for _, user := range []string{"alice", "bob"} {
			streams = append(streams,
				c.open(protocol, "/api/private", "", "Authorization", user),
				c.open(protocol, "/api/private", "", "Cookie", "session="+user))
		}
		anonymous := c.open(protocol, "/api/private", "")
		for i := range 5 {
			for n, s := range streams {
				own := []string{"alice", "session=alice", "bob", "session=bob"}[n]
				e := c.next(s)
				whole := strings.HasPrefix(e.Data, wholePatch) // also where the stream has fallen behind
				if i == 0 && !whole || whole != strings.Contains(e.Data, `"owner":"`+own+`"`) || whole != strings.Contains(e.Data, "owner") {
					t.Fatalf("%s: %s is sent %.200s", protocol, own, e.Data)
				}
			}
			if e := c.next(anonymous); i == 0 && !strings.Contains(e.Data, `"owner":""`) {
				t.Fatalf("%s: nobody is sent %.200s", protocol, e.Data)
			}
		}
	}
}

func TestNothingIsForwardedUnasked(t *testing.T) {
	u := newUpstream(t, numbered(0))
	c := start(t, u.site("interval 10ms"))
	for _, protocol := range protocols {
		s := c.open(protocol, "/api/x?a=1&sse_format=full&lastEventId=", "", "Authorization", "secret", "Cookie", "secret", "X-Forwarded-For", "secret", "Origin", "secret")
		c.next(s)
		poll := u.lastPoll()
		if text := fmt.Sprint(poll.Header); strings.Contains(text, "secret") {
			t.Errorf("%s: poll has %s", protocol, text)
		}
		if poll.URL.RequestURI() != "/api/x?a=1" {
			t.Errorf("%s: poll of %s", protocol, poll.URL.RequestURI())
		}
		if got := poll.Header.Get("X-Forwarded-For"); got != "192.0.2.1" {
			t.Errorf("%s: poll for %q", protocol, got)
		}
		if got := poll.Header.Get("Accept"); got != "application/json" {
			t.Errorf("%s: poll accepts %q", protocol, got)
		}
	}
}

// Nothing of a poll's answer but its document reaches a client.
func TestAnswersKeepTheirHeaders(t *testing.T) {
	u := newUpstream(t, "")
	u.setAnswer(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Set-Cookie", "session=somebody")
		w.Header().Set("X-Secret", "1")
		fmt.Fprint(w, numbered(0))
	})
	c := start(t, u.site(""))
	s := c.open("h1", "/api/x", "")
	c.next(s)
	for name := range s.response.Header {
		switch name {
		case "Cache-Control", "Content-Type", "Date", "Server", "Vary", "X-Accel-Buffering":
		default:
			t.Errorf("stream has %s: %q", name, s.response.Header[name])
		}
	}
}

// block serves clients that call themselves who from their own upstream.
func block(who string, u *upstream) string {
	return fmt.Sprintf(`@%[1]s header X-Who %[1]s
	handle @%[1]s {
		poll_sse {
			interval 10ms
			drain 50ms
			linger 10s
		}
		reverse_proxy %[2]s
	}
	`, who, u.Listener.Addr())
}

// Handlers that are configured alike never share, and nobody sees another's
// document when a reload shifts their order: not a new client, nor one that
// returns, nor one whose document was once the same as another's.
func TestAlikeHandlersAcrossReload(t *testing.T) {
	text := func(who string, n int) string { return fmt.Sprintf(`{"owner":%q,"n":%d,"filler":%q}`, who, n, filler) }
	const common = `{"owner":"","n":0}`
	ups := map[string]*upstream{"alpha": newUpstream(t, common), "beta": newUpstream(t, common), "nu": newUpstream(t, text("nu", 0))}
	c := start(t, block("alpha", ups["alpha"])+block("beta", ups["beta"]))

	ids := map[string][]string{}
	streams := map[string]*connection{}
	for _, who := range []string{"alpha", "beta"} {
		streams[who] = c.open("h1", "/doc", "", "X-Who", who)
		ids[who] = append(ids[who], c.next(streams[who]).ID)
		for n := range 3 {
			ups[who].set(text(who, n))
			e := c.next(streams[who])
			if !strings.Contains(e.Data, fmt.Sprintf(`"owner":"%s"`, who)) && n == 0 {
				t.Fatalf("%s is sent %s", who, e.Data)
			}
			ids[who] = append(ids[who], e.ID)
		}
	}
	for _, who := range []string{"alpha", "beta"} { // both are again what they were in the beginning
		ups[who].set(common)
		ids[who] = append(ids[who], c.next(streams[who]).ID)
	}

	if err := c.reload(block("nu", ups["nu"]) + block("alpha", ups["alpha"]) + block("beta", ups["beta"])); err != nil {
		t.Fatal(err)
	}
	for _, who := range []string{"nu", "alpha", "beta"} {
		for i, id := range append([]string{""}, ids[who]...) {
			// A connection may still reach the old configuration's server.
			var s *connection
			c.eventually("the new configuration serves", func() (served bool) {
				var err error
				s, err = c.connect("h1", "/doc", id, "X-Who", who)
				return err == nil && s.response.Header.Get("Content-Type") != ""
			})
			ups[who].set(text(who, 100+i))
			for range 3 {
				e := c.next(s)
				for _, other := range []string{"nu", "alpha", "beta"} {
					if other != who && strings.Contains(e.Data, fmt.Sprintf(`%q`, other)) {
						t.Fatalf("%s, returning with %q, is sent %.300s", who, id, e.Data)
					}
				}
				if strings.Contains(e.Data, fmt.Sprintf(`%d`, 100+i)) {
					break
				}
			}
			s.close()
		}
	}
}

// The rules behind the directive judge the poll; a guard has to stand before it.
func TestGuardBeforeTheDirective(t *testing.T) {
	u := newUpstream(t, numbered(0))
	c := start(t, fmt.Sprintf(`route {
		@out header X-Blocked 1
		abort @out
		@no header X-Denied 1
		respond @no "no" 403
		poll_sse
		@behind not remote_ip 192.0.2.0/24
		respond @behind "behind" 403
		reverse_proxy %s
	}`, u.Listener.Addr()))
	for _, protocol := range protocols {
		c.next(c.open(protocol, "/", "")) // others are served, and their document is held
		if s, err := c.connect(protocol, "/", "", "X-Blocked", "1"); err == nil {
			if _, err := s.Next(); err == nil {
				t.Errorf("%s: a blocked client is sent an event", protocol)
			}
			s.close()
		}
		s, err := c.connect(protocol, "/", "", "X-Denied", "1")
		if err != nil {
			t.Fatal(err)
		}
		if s.response.StatusCode != http.StatusForbidden {
			t.Errorf("%s: a denied client is sent %s", protocol, s.response.Status)
		}
		s.close()
	}
}
