package pollsse

import (
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/pollsse/caddy-poll-sse/internal/jsondiff"
)

// reloaded is the same route in a newer generation.
func (s *site) reloaded(answer caddyhttp.HandlerFunc) *site {
	newer := &site{t: s.t, server: new(caddyhttp.Server), answer: answer}
	newer.h = newer.provision(&Handler{Interval: s.h.Interval})
	if newer.h.poolKey != s.h.poolKey {
		s.t.Fatal("the reloaded handler has another key")
	}
	return newer
}

func answering(text string) caddyhttp.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) error { _, err := io.WriteString(w, text); return err }
}

func status(status int) caddyhttp.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) error { w.WriteHeader(status); return nil }
}

// fed returns a resource of h that the test feeds itself.
func fed(h *Handler) *resource {
	h.setDefaults()
	return &resource{poller: poller{differ: h.differ(wish{})}, views: make(map[wish]*view)}
}

// feed publishes text as if it had been polled by generation.
func (r *resource) feed(t *testing.T, text string, generation uint64) (news bool) {
	t.Helper()
	result := pollResult{kind: pollChanged, before: r.poller.held}
	var err error
	result.document, result.patch, result.changed, err = diff(&r.poller.differ, r.poller.held, []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	r.poller.held = result.document
	return r.publish(result, generation)
}

func hanging(w http.ResponseWriter, r *http.Request) error {
	<-r.Context().Done()
	return r.Context().Err()
}

func TestUnchangedPollsConfirm(t *testing.T) {
	h := new(Handler)
	r := fed(h)
	patch := r.watch(h, wish{format: formatPatch})
	r.feed(t, `{"n":1}`, 1)
	r.publish(pollResult{}, 2) // not modified
	full := r.watch(h, wish{format: formatFull})
	for generation := range uint64(4) {
		for name, v := range map[string]*view{"patch": patch, "full": full} {
			if b := v.log.after(eventID{}, generation, nil); (len(b.events) == 1) != (generation == 1 || generation == 2) {
				t.Errorf("%s: generation %d is sent %d events", name, generation, len(b.events))
			}
		}
	}
	if r.confirmed != 2 || r.polledBy != 1 {
		t.Errorf("polled by %d, confirmed by %d", r.polledBy, r.confirmed)
	}
}

func TestSourcesOnlyGetNewer(t *testing.T) {
	r := &resource{wake: make(chan struct{}, 1)}
	var handlers [4]*Handler
	for generation := range handlers {
		handlers[generation] = &Handler{generation: uint64(generation), draining: make(chan struct{})}
	}
	for i, step := range []struct {
		do   func()
		want uint64 // generation of the source, 0 for none
	}{
		{func() { r.follow(&source{handler: handlers[2]}) }, 2},
		{func() { r.follow(&source{handler: handlers[1]}) }, 2},
		{func() { r.unfollow(1) }, 2},
		{func() { r.follow(&source{handler: handlers[3]}) }, 3},
		{func() { r.unfollow(3) }, 0},
		{func() { r.follow(&source{handler: handlers[2]}) }, 0},
		{func() { r.follow(&source{handler: handlers[3]}) }, 3},
	} {
		step.do()
		var got uint64
		if src := r.currentSource(); src != nil {
			got = src.handler.generation
		}
		if got != step.want {
			t.Errorf("step %d: source of generation %d, want %d", i, got, step.want)
		}
	}
}

// A reload is no reason to ask an upstream that wants to be left alone, nor more
// than one new client is a reason to ask twice.
func TestNewSourceKeepsToRetryAfter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, &Handler{Interval: caddy.Duration(10 * time.Second)})
		old := s.get(s.h, "/")
		s.waitForPolls(1)
		s.setAnswer(func(w http.ResponseWriter, r *http.Request) error {
			w.Header().Set("Retry-After", "120")
			w.WriteHeader(http.StatusServiceUnavailable)
			return nil
		})
		s.waitForPolls(1)
		asked := time.Now()
		newer := &site{t: t, server: new(caddyhttp.Server)}
		newer.answer = func(w http.ResponseWriter, r *http.Request) error { _, err := io.WriteString(w, `{"n":2}`); return err }
		newer.h = newer.provision(&Handler{Interval: s.h.Interval})
		fresh := newer.get(newer.h, "/")
		newer.waitForPolls(1)
		if d := time.Since(asked); d < 2*time.Minute {
			t.Errorf("asked again after %v", d)
		}
		before := newer.count()
		another := newer.get(newer.h, "/")
		synctest.Wait()
		if n := newer.count() - before; n != 0 {
			t.Errorf("%d polls for one more client", n)
		}
		s.close(old)
		newer.close(fresh, another)
	})
}

// A request that was on its way when a newer generation took over comes again.
func TestLateRequestsOfAnOldGeneration(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, new(Handler))
		old := s.get(s.h, "/")
		synctest.Wait()
		newer := s.reloaded(answering(`{"n":2}`))
		fresh := newer.get(newer.h, "/")
		synctest.Wait()
		began := time.Now()
		late := s.get(s.h, "/")
		<-late.done
		if r := strings.TrimPrefix(late.text(), ":\nretry: "); late.status != 200 || len(r) != 5 || time.Since(began) > 0 {
			t.Errorf("after %v it is sent %d %q", time.Since(began), late.status, late.text())
		}
		s.close(old, late)
		newer.close(fresh)
	})
}

// What an older generation's route answered last decides nothing.
func TestFirstPollOfAGenerationIsItsOwn(t *testing.T) {
	for _, c := range []struct {
		name       string
		old, newer caddyhttp.HandlerFunc
		passes     bool
	}{
		{"fails, then is not there", status(500), status(404), true},
		{"is not there, then is", status(404), answering(`1`), false},
	} {
		synctest.Test(t, func(t *testing.T) {
			s := newSite(t, &Handler{Interval: caddy.Duration(time.Second)})
			s.setAnswer(status(500))
			old := s.get(s.h, "/") // opens
			s.waitForPolls(1)
			s.setAnswer(c.old)
			s.waitForPolls(1)
			passed := false
			newer := s.reloaded(func(w http.ResponseWriter, r *http.Request) error {
				if r.Header.Get("Accept") == "text/event-stream" {
					passed = true
					return nil
				}
				time.Sleep(time.Second)
				return c.newer(w, r)
			})
			fresh := newer.get(newer.h, "/")
			time.Sleep(1100 * time.Millisecond)
			synctest.Wait()
			if passed != c.passes {
				t.Errorf("%s: passed %v", c.name, passed)
			}
			s.close(old)
			newer.close(fresh)
		})
	}
}

func TestClientLeavesBeforeTheFirstPollEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, new(Handler))
		s.setAnswer(hanging)
		c := s.get(s.h, "/")
		synctest.Wait()
		c.leave()
		synctest.Wait()
		if !c.ended() || c.text() != "" || s.resources() != 0 {
			t.Errorf("ended %v, sent %q, %d resources", c.ended(), c.text(), s.resources())
		}
		s.close()
	})
}

func TestLogsSayNoQuery(t *testing.T) {
	r := resource{poller: poller{target: target{host: "example.com", uri: "/b?token=secret", originalURI: "/a?token=secret"}}}
	if got := r.field().String; got != "example.com/a" {
		t.Errorf("resource %q", got)
	}
}

// A document that cannot be compared with the one held costs one poll, no more.
func TestPollsRecover(t *testing.T) {
	s := newSite(t, new(Handler))
	defer s.close()
	src := &source{&Handler{generation: 1, logger: s.h.logger}, answering(`{"n":2}`), s.server, nil}
	r := fed(new(Handler))
	r.poller = poller{target: target{uri: "/", originalURI: "/"}, timeout: time.Minute, maxBody: 100}
	v := r.watch(s.h, wish{format: formatPatch})
	bad := new(jsondiff.Document) // no document is like this one
	for _, held := range []*jsondiff.Document{bad, nil} {
		r.poller.held, v.sent = held, bad
		if result := r.poll(t.Context(), src); result.cause != "panic" {
			t.Errorf("%s %q (%v)", result.kind, result.cause, result.err)
		}
		if result := r.poll(t.Context(), src); !result.news || string(r.document.Bytes()) != `{"n":2}` {
			t.Errorf("%s, news %v", result.kind, result.news)
		}
		if result := r.poll(t.Context(), src); result.kind != pollUnchanged || result.news {
			t.Errorf("%s, news %v", result.kind, result.news)
		}
	}
	if b := v.log.after(v.log.versions[0].id, 1, nil); len(b.events) != 1 || !strings.Contains(text(b.events), `"path":"","value":{"n":2}`) {
		t.Errorf("%q", text(b.events))
	}
}

// A poll of other bytes with the same value makes them the document, so that the next
// poll of these bytes is found to be unchanged.
func TestEqualValuesAreHeldAsPolled(t *testing.T) {
	h := new(Handler)
	r := fed(h)
	v := r.watch(h, wish{format: formatPatch})
	r.feed(t, `{"a":1}`, 1)
	old := r.document
	if r.feed(t, `{ "a": 1 }`, 1) || r.document == old || r.document != r.poller.held || v.sent != r.document {
		t.Error("the document polled last is not held")
	}
	again := r.document
	if r.feed(t, `{ "a": 1 }`, 1) || r.document != again {
		t.Error("the same bytes make another document")
	}
	r.publish(pollResult{kind: pollNotModified}, 3)
	r.publish(pollResult{kind: pollNotModified}, 2)
	if r.document != again || r.confirmed != 3 {
		t.Errorf("document %v, confirmed by %d", r.document, r.confirmed)
	}
}

// What is known of the newest poll does not keep its document alive.
func TestResultsAreKeptWithoutDocuments(t *testing.T) {
	h := &Handler{logger: zap.NewNop()}
	h.setDefaults()
	r := newResource(h, target{}, "")
	defer r.close()
	d := parse(t, "1")
	r.settle(t.Context(), &source{handler: h}, pollResult{kind: pollChanged, document: d, before: d, patch: []byte("[]")})
	if r.last.document != nil || r.last.before != nil || r.last.patch != nil || !r.last.good() {
		t.Errorf("%+v", r.last)
	}
}

// What handlers say of a poll may quote what was forwarded; logs do not.
func TestReasonsQuoteNothingThatWasForwarded(t *testing.T) {
	refused := caddyhttp.Error(502, fmt.Errorf("secret: %w", &net.OpError{Op: "dial", Net: "secret", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}))
	for _, c := range []struct {
		err  error
		says string
	}{
		{nil, ""},
		{refused, syscall.ECONNREFUSED.Error()},
		{caddyhttp.Error(502, &net.DNSError{Err: "no such host", Name: "secret.example.com"}), "no such host"},
		{fmt.Errorf("secret: %w", x509.UnknownAuthorityError{}), "x509.UnknownAuthorityError"},
		{errors.New("secret"), "*errors.errorString"},
		{fmt.Errorf("1: %w", ownError("too large")), "too large"},
	} {
		for name, target := range map[string]target{
			"query":     {uri: "/", originalURI: "/?a=secret"},
			"rewritten": {uri: "/?a=secret", originalURI: "/"},
			"header":    {header: http.Header{"X-User": {"secret"}}},
			"variable":  {vars: map[string]string{"user": "secret"}},
		} {
			lines, log := observer.New(zap.InfoLevel)
			zap.New(lines).Warn("", (&resource{poller: poller{target: target}}).reason(c.err))
			if got, _ := log.All()[0].ContextMap()["error"].(string); got != c.says {
				t.Errorf("%s: %v is logged as %q, want %q", name, c.err, got, c.says)
			}
		}
	}
	lines, log := observer.New(zap.InfoLevel)
	zap.New(lines).Warn("", (&resource{poller: poller{target: target{uri: "/a", originalURI: "/a"}}}).reason(refused))
	if got := log.All()[0].ContextMap()["error"]; got != refused.Error() {
		t.Errorf("where nothing is forwarded, logged is %q", got)
	}
	lines, log = observer.New(zap.DebugLevel)
	h := &Handler{logger: zap.New(lines)}
	r := newResource(h, target{header: http.Header{"X-User": {"secret"}}}, "")
	defer r.close()
	r.settle(t.Context(), &source{handler: h}, pollResult{kind: pollFailed, cause: "error", err: errors.New("secret")})
	if n := log.Len(); n != 1 || strings.Contains(fmt.Sprint(log.All()[0].ContextMap()), "secret") {
		t.Errorf("%d lines: %v", n, log.All())
	}
}
