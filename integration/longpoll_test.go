package integration

import (
	"compress/gzip"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

// longPoll asks for a document other than the one of a tag.
func (c *caddy) longPoll(protocol, path string, seconds int, tag string) (*http.Response, string, error) {
	client, base := c.client(protocol)
	request, err := http.NewRequest(http.MethodGet, base+path, nil)
	if err != nil {
		return nil, "", err
	}
	request.Header.Set("Prefer", fmt.Sprint("wait=", seconds))
	if tag != "" {
		request.Header.Set("If-None-Match", tag)
	}
	response, err := client.Do(request)
	if err != nil {
		return new(http.Response), "", err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	return response, string(text), err
}

// Long-polls see each version over all protocols, share the polls with the streams, and
// survive a reload and a restart.
func TestLongPolls(t *testing.T) {
	u := newUpstream(t, numbered(0))
	site := u.site("interval 20ms\nselectable /n")
	c := start(t, site)
	stream := c.open("h2", "/api/n", "")
	tag := ""
	for n, protocol := range append(protocols, protocols...) {
		u.set(numbered(n))
		response, text, err := c.longPoll(protocol, "/api/n", 10, tag)
		if err != nil {
			t.Fatal(err)
		}
		if response.StatusCode != 200 || text != numbered(n) || response.ContentLength != int64(len(text)) {
			t.Errorf("%s: %s, %d bytes: %s", protocol, response.Status, response.ContentLength, text)
		}
		if response.Header.Get("Set-Cookie") != "" || response.Header.Get("Content-Type") != "application/json" || response.Header.Get("Preference-Applied") != "wait=10" {
			t.Errorf("%s: %v", protocol, response.Header)
		}
		tag = response.Header.Get("ETag")
		if e := c.next(stream); protocol != "h1" && tag != `W/"`+e.ID+`"` { // h1 has another host, hence another log
			t.Errorf("%s: the stream has %s, the long-poll %s", protocol, e.ID, tag)
		}
		began := time.Now()
		if response, text, err = c.longPoll(protocol, "/api/n", 1, tag); err != nil || response.StatusCode != 304 || text != "" || response.Header.Get("ETag") != tag || time.Since(began) < time.Second {
			t.Errorf("%s: %v, %q, %v after %v", protocol, response.Status, text, err, time.Since(began))
		}
	}
	if _, text, err := c.longPoll("h1", "/api/n?sse_select=/n", 1, ""); err != nil || text != "5" {
		t.Errorf("a part: %s, %v", text, err)
	}

	for what, interrupt := range map[string]func() error{
		"reload":  func() error { return c.reload(site) },
		"restart": func() error { c.terminate(); c.run(site); return nil },
	} {
		if err := interrupt(); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		response, text, err := c.longPoll("h1", "/api/n", 1, tag)
		for tries := 1; err != nil && tries < 3; tries++ { // the connection reached a server that is ending
			t.Logf("after a %s: %v", what, err)
			began = time.Now()
			response, text, err = c.longPoll("h1", "/api/n", 1, tag)
		}
		if err != nil || response.StatusCode != 304 || time.Since(began) < time.Second {
			t.Errorf("after a %s: %v, %q, %v", what, response.Status, text, err)
		}
	}
	u.setAnswer(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(410)
		io.WriteString(w, "gone for "+r.Header.Get("Prefer"))
	})
	if response, text, err := c.longPoll("h1", "/api/n", 20, tag); err != nil || response.StatusCode != 410 || text != "gone for wait=20" {
		t.Errorf("a withdrawn document: %s, %q, %v", response.Status, text, err)
	}
}

// What compresses answers around us leaves the tags as they are.
func TestEncodedLongPoll(t *testing.T) {
	u := newUpstream(t, stations(0))
	c := start(t, "encode\n"+u.site("interval 20ms"))
	request, err := http.NewRequest(http.MethodGet, "http://localhost/api/n", nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Prefer", "wait=1")
	request.Header.Set("Accept-Encoding", "gzip")
	response, err := c.h1.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	unzipped, err := gzip.NewReader(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	if text, err := io.ReadAll(unzipped); err != nil || string(text) != stations(0) {
		t.Errorf("%d bytes, %v", len(text), err)
	}
	tag := response.Header.Get("ETag")
	if response, _, err = c.longPoll("h1", "/api/n", 1, tag); err != nil || response.StatusCode != 304 {
		t.Errorf("%s is sent %s, %v", tag, response.Status, err)
	}
}

// A loop of curl, as docs/clients.md has it, sees every version.
func TestCurlLongPoll(t *testing.T) {
	curl := program(t, "curl")
	u := newUpstream(t, numbered(0))
	c := start(t, u.site("interval 20ms"))
	script := blocksOf(t, "docs/clients.md", "sh long-poll")[0]
	script = strings.ReplaceAll(script, "curl ", curl+" --unix-socket "+c.dir+"/h1 ")
	script = strings.ReplaceAll(script, "http://localhost:8080/api/prices", "http://localhost/api/n")
	out, stop := shell(t, script)
	defer stop()
	for n := range 5 {
		u.set(numbered(n))
		c.eventually(fmt.Sprintf("curl shows version %d", n), func() bool { return strings.Contains(out.String(), numbered(n)) })
	}
}
