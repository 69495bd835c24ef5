package integration

import (
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"testing"
)

// The client module and the inspector are served at their paths, whatever the matcher of
// the directive, and nothing else becomes another.
func TestFilesAreServed(t *testing.T) {
	module, err := os.ReadFile("../client/poll_sse.js")
	if err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile("../inspect.html")
	if err != nil {
		t.Fatal(err)
	}
	u := newUpstream(t, `{"n":1}`)
	proxy := "reverse_proxy " + u.Listener.Addr().String()
	const options = "{\nclient /poll_sse.js\ninspect /poll_sse/inspect\n}\n"
	for name, site := range map[string]string{
		"no matcher":    "poll_sse " + options + proxy,
		"path":          "encode\npoll_sse /api/* " + options + proxy,
		"named matcher": "@live {\npath /api/*\nmethod GET\n}\npoll_sse @live " + options + proxy,
		"route":         "route {\npoll_sse /api/* " + options + proxy + "\n}",
		"two":           "poll_sse /api/* " + options + "poll_sse /api/slow/* {\ninterval 1h\n}\n" + proxy,
	} {
		c := start(t, site)
		for _, protocol := range protocols {
			for path, want := range map[string]struct{ contentType, text, policy string }{
				"/poll_sse.js":             {"text/javascript; charset=utf-8", string(module), ""},
				"/poll_sse.js?v=2":         {"text/javascript; charset=utf-8", string(module), ""},
				"/poll_sse/inspect?url=/x": {"text/html; charset=utf-8", string(page), "default-src 'none'; "},
				"/poll_sse/inspect/":       {"application/json", `{"n":1}`, ""},
				"/api/poll_sse.js":         {"application/json", `{"n":1}`, ""},
				"/POLL_SSE.js":             {"application/json", `{"n":1}`, ""},
				"//poll_sse.js":            {"application/json", `{"n":1}`, ""},
			} {
				client, base := c.client(protocol)
				response, err := client.Get(base + path)
				if err != nil {
					t.Fatal(err)
				}
				text, err := io.ReadAll(response.Body)
				response.Body.Close()
				if err != nil || string(text) != want.text || response.Header.Get("Content-Type") != want.contentType || !strings.HasPrefix(response.Header.Get("Content-Security-Policy"), want.policy) {
					t.Errorf("%s, %s, %s: %v %v, %d bytes", name, protocol, path, err, response.Header, len(text))
				}
				if tag := response.Header.Get("ETag"); want.text != `{"n":1}` {
					request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, base+path, nil)
					if err != nil {
						t.Fatal(err)
					}
					request.Header.Set("If-None-Match", tag)
					response, err := client.Do(request)
					if err != nil {
						t.Fatal(err)
					}
					if response.Body.Close(); response.StatusCode != http.StatusNotModified {
						t.Errorf("%s, %s, %s: %s to who has it", name, protocol, path, response.Status)
					}
					request.Header.Del("If-None-Match")
					request.Header.Set("Accept-Encoding", "gzip, zstd")
					if response, err = client.Do(request); err != nil {
						t.Fatal(err)
					}
					text, err := io.ReadAll(decoded(response, response.Body)) // once is enough, also with encode
					response.Body.Close()
					if err != nil || string(text) != want.text || response.Header.Get("Content-Encoding") != "gzip" {
						t.Errorf("%s, %s, %s, compressed: %v %v, %d bytes", name, protocol, path, err, response.Header, len(text))
					}
				}
			}
			// What is no file is not streamed either, unless the directive is for all.
			if s, err := c.connect(protocol, "/POLL_SSE.js", ""); err != nil || (s.response.Header.Get("Content-Type") == "application/json") != (name != "no matcher") {
				t.Errorf("%s, %s: %v", name, protocol, err)
			} else {
				s.close()
			}
			s := c.open(protocol, "/api/x?sse_status=polls&sse_format=full", "")
			c.next(s)
			s.close()
		}
		if name == "two" { // the more specific one comes first
			u.set(`{"n":2}`)
			s := c.open("h2", "/api/slow/x", "")
			c.next(s)
			s.close()
			list, _ := c.resources()
			for _, r := range list {
				if slow := r["path"] == "/api/slow/x"; slow != (r["interval"] == 3_600_000.) {
					t.Errorf("%v", r)
				}
			}
		}
		c.terminate()
		u.set(`{"n":1}`)
	}
}

// In a route and a handle_path the files are where the directive stands.
func TestFilesInRoutes(t *testing.T) {
	proxy := "\nreverse_proxy " + newUpstream(t, `{"n":1}`).Listener.Addr().String() + "\n}\nrespond elsewhere"
	for site, want := range map[string]string{
		"route /api/* {\npoll_sse {\nclient /poll_sse.js\n}" + proxy:       "",
		"route /api/* {\npoll_sse {\nclient /api/poll_sse.js\n}" + proxy:   "/api/poll_sse.js",
		"handle_path /api/* {\npoll_sse {\nclient /poll_sse.js\n}" + proxy: "/api/poll_sse.js",
	} {
		c := start(t, site)
		for _, path := range []string{"/poll_sse.js", "/api/poll_sse.js"} {
			response, err := c.h2.Get("https://localhost:" + strconv.Itoa(c.port) + path)
			if err != nil {
				t.Fatal(err)
			}
			response.Body.Close()
			if is := strings.HasPrefix(response.Header.Get("Content-Type"), "text/javascript"); is != (path == want) {
				t.Errorf("%s\nserves the client module at %s: %v", site, path, is)
			}
		}
	}
}
