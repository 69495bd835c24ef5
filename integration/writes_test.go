package integration

import (
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// What a client writes is on all screens at once, however long the interval.
func TestWritesAreSeenAtOnce(t *testing.T) {
	var n atomic.Int64
	u := newUpstream(t, "")
	u.setAnswer(func(w http.ResponseWriter, r *http.Request) {
		switch r.Method {
		case http.MethodGet:
			io.WriteString(w, numbered(int(n.Load())))
		default:
			n.Add(1)
			w.WriteHeader(http.StatusNoContent)
		}
	})
	c := start(t, u.site("interval 1h"))
	for _, protocol := range protocols {
		s := c.open(protocol, "/api/items", "")
		doc := apply(t, nil, c.next(s).Data)
		client, base := c.client(protocol)
		var delays []time.Duration
		for range 50 {
			request, err := http.NewRequest(http.MethodPost, base+"/api/items/42", strings.NewReader("{}"))
			if err != nil {
				t.Fatal(err)
			}
			response, err := client.Do(request)
			answered := time.Now()
			if err != nil || response.StatusCode != http.StatusNoContent {
				t.Fatal(response, err)
			}
			response.Body.Close()
			doc = apply(t, doc, c.next(s).Data)
			delays = append(delays, max(0, time.Since(answered)))
			if got, want := numberIn(doc), int(n.Load()); got != want {
				t.Fatalf("%s: version %d, want %d", protocol, got, want)
			}
			time.Sleep(100 * time.Millisecond) // the shortest time between such polls
		}
		slices.Sort(delays)
		t.Logf("%s: from the answer to a write to the event: median %v, at most %v", protocol, delays[len(delays)/2], delays[len(delays)-1])
		if median := delays[len(delays)/2]; median > 2*time.Second {
			t.Errorf("%s: median %v", protocol, median)
		}
	}
	// Over h1 the site has another name, hence another resource.
	if got, want := u.count(), 3*100+2; got != want {
		t.Errorf("%d requests, want %d", got, want)
	}
}

// A write leaves everybody else's documents alone.
func TestWritesConcernTheirPathOnly(t *testing.T) {
	u := newUpstream(t, "1")
	c := start(t, u.site("interval 1h"))
	for _, path := range []string{"/api/a", "/api/b"} {
		c.next(c.open("h1", path, ""))
	}
	write := func(method, path string, status int, want ...string) {
		t.Helper()
		before := u.count()
		request, err := http.NewRequest(method, "http://localhost"+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		response, err := c.h1.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		if response.StatusCode != status {
			t.Errorf("%s %s: %s", method, path, response.Status)
		}
		polled := func() (paths []string) {
			u.mu.Lock()
			defer u.mu.Unlock()
			for _, r := range u.polls[before:] {
				if r.Method == http.MethodGet {
					paths = append(paths, r.URL.Path)
				}
			}
			return paths
		}
		c.eventually(fmt.Sprintf("%v is polled", want), func() bool { return len(polled()) >= len(want) })
		time.Sleep(200 * time.Millisecond) // for what should not come
		if got := polled(); !slices.Equal(got, want) {
			t.Errorf("%s %s: polled %v, want %v", method, path, got, want)
		}
	}
	write("PUT", "/api/a/1", 200, "/api/a")
	write("PATCH", "/api/b", 200, "/api/b")
	write("DELETE", "/api", 200)
	write("POST", "/api/c", 200)
	u.setAnswer(func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(422) })
	write("PUT", "/api/a/1", 422) // has failed
}
