package integration

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/launchdarkly/eventsource"
	r3labs "github.com/r3labs/sse/v2"
	tmaxmax "github.com/tmaxmax/go-sse"
)

// TestGoClients plays a scenario to clients in Go.
func TestGoClients(t *testing.T) {
	s := newScenario(t, plainAndGzip)
	for _, path := range []string{"/api/plain", "/api/gzip"} {
		s.follow("launchdarkly/eventsource", path, func(url string) func() []report { return followLaunchDarkly(t, url) })
		s.follow("tmaxmax/go-sse", path, func(url string) func() []report { return followTmaxmax(t, url) }).excuse = excuseTmaxmax
		f := s.follow("r3labs/sse", path, func(url string) func() []report { return followR3labs(t, url) })
		f.excuse, f.halves = excuseR3labs, true
	}
	s.play(len(cuts))
	excused := make(map[string]int)
	for _, f := range s.followers {
		name, _, _ := strings.Cut(f.name, " ")
		for why, n := range f.excused {
			excused[name+": "+why] += n
		}
	}
	for _, fault := range []string{
		"tmaxmax/go-sse: " + emptyAtEnd, "tmaxmax/go-sse: " + returned,
		"r3labs/sse: " + emptyAtEnd, "r3labs/sse: " + returned, "r3labs/sse: " + halfEvent,
	} {
		if excused[fault] == 0 {
			t.Errorf("at fault no longer: %s", fault)
		}
	}
}

// Faults of clients.
const (
	emptyAtEnd = "an empty event where the stream ends"
	halfEvent  = "half an event where the stream is cut"
	returned   = "it gives up where the stream ends"
)

// followLaunchDarkly begins to follow with github.com/launchdarkly/eventsource.
func followLaunchDarkly(t *testing.T, url string) (take func() []report) {
	stream, err := eventsource.SubscribeWithURL(url,
		eventsource.StreamOptionHTTPClient(newClient(t)),
		eventsource.StreamOptionErrorHandler(func(error) (goOn eventsource.StreamErrorHandlerResult) { return goOn }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stream.Close)
	var got reports
	go func() {
		for e := range stream.Events {
			got.add(report{e.Id(), e.Event(), e.Data()})
		}
	}()
	return got.take
}

// followTmaxmax begins to follow with github.com/tmaxmax/go-sse. Without a buffer of its
// own it would take no event above 64 KiB.
func followTmaxmax(t *testing.T, url string) (take func() []report) {
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	connection := (&tmaxmax.Client{HTTPClient: newClient(t)}).NewConnection(request)
	connection.Buffer(nil, 1<<20)
	var got reports
	connection.SubscribeToAll(func(e tmaxmax.Event) { got.add(report{e.LastEventID, e.Type, e.Data}) })
	go func() {
		for t.Context().Err() == nil {
			connection.Connect()
			got.add(report{Type: returned})
			time.Sleep(20 * time.Millisecond)
		}
	}()
	return got.take
}

// excuseTmaxmax excuses what the package makes of what comes between the last event and a
// clean end: if it has a field, as the preamble has, that is an empty event; if it is a
// heartbeat alone, Connect returns nil.
func excuseTmaxmax(j *judge, e report) string {
	switch {
	case e == report{Type: returned}:
		return returned
	case e.Data == "" && e.Type == "" && e.ID == j.lastID():
		return emptyAtEnd
	}
	return ""
}

// followR3labs begins to follow with github.com/r3labs/sse. Without a buffer of its own it
// would take no event above 64 KiB. Where a stream ends cleanly, Subscribe returns.
func followR3labs(t *testing.T, url string) (take func() []report) {
	client := r3labs.NewClient(url, r3labs.ClientMaxBufferSize(1<<20))
	client.Connection = newClient(t)
	client.ReconnectStrategy = untilEnd{t.Context()}
	var got reports
	go func() {
		for t.Context().Err() == nil {
			client.SubscribeRawWithContext(t.Context(), func(e *r3labs.Event) {
				got.add(report{string(e.ID), string(e.Event), string(e.Data)})
			})
			got.add(report{Type: returned})
			time.Sleep(20 * time.Millisecond)
		}
	}()
	return got.take
}

// untilEnd has r3labs/sse reconnect soon, until ctx ends.
type untilEnd struct{ ctx context.Context }

func (u untilEnd) Reset() {}

func (u untilEnd) NextBackOff() time.Duration {
	if u.ctx.Err() != nil {
		return -1
	}
	return 20 * time.Millisecond
}

// excuseR3labs excuses what the package makes of a stream's end, clean or not: it reports
// whatever comes before as an event, and gives it the last id where it has none. So the
// half of an event is no JSON, or has the id of the event before, or half an id; and the
// preamble or a heartbeat alone is an empty event.
func excuseR3labs(j *judge, e report) string {
	switch {
	case e == report{Type: returned}:
		return returned
	case e.Data == "" && e.Type == "" && e.ID == j.lastID():
		return emptyAtEnd
	case !json.Valid([]byte(e.Data)), e.ID == j.lastID(), !wholeID.MatchString(e.ID):
		return halfEvent
	}
	return ""
}

var wholeID = regexp.MustCompile(`^.{11}-[0-9a-z]+-.{11}$`)

// newClient returns an HTTP client with connections of its own.
func newClient(t *testing.T) *http.Client {
	transport := new(http.Transport)
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

// Two packages want a larger buffer than they have by default for documents above 64 KiB.
func TestBuffersOfGoClients(t *testing.T) {
	u := newUpstream(t, `"`+strings.Repeat("x", 100<<10)+`"`)
	c := start(t, u.site("interval 20ms"))
	url := fmt.Sprintf("http://localhost:%d/api/x", newCutter(t, filepath.Join(c.dir, "h1")).port())
	tooLong := make(chan string, 100)
	note := func(name string) func(error, time.Duration) {
		return func(err error, _ time.Duration) {
			if errors.Is(err, bufio.ErrTooLong) {
				tooLong <- name
			}
		}
	}
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	go (&tmaxmax.Client{HTTPClient: newClient(t), OnRetry: note("tmaxmax/go-sse")}).NewConnection(request).Connect()
	client := r3labs.NewClient(url)
	client.Connection, client.ReconnectStrategy, client.ReconnectNotify = newClient(t), untilEnd{t.Context()}, note("r3labs/sse")
	go client.SubscribeRawWithContext(t.Context(), func(*r3labs.Event) {})
	fail := make(map[string]bool)
	for len(fail) < 2 {
		select {
		case name := <-tooLong:
			fail[name] = true
		case <-time.After(patience):
			t.Fatalf("only %v fail", fail)
		}
	}
	take := followLaunchDarkly(t, url)
	c.eventually("launchdarkly/eventsource takes the event", func() bool {
		got := take()
		return len(got) == 1 && len(got[0].Data) > 100<<10
	})
}
