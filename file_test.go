package pollsse

import (
	"compress/gzip"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// Files are served where the operator wants them, and nothing else is kept from the next
// handler.
func TestFiles(t *testing.T) {
	h := &Handler{Client: "/poll_sse.js", Inspect: "/inspect"}
	for _, c := range []struct {
		h            *Handler
		method, path string
		want         *file
	}{
		{h, "GET", "/poll_sse.js", clientFile()},
		{h, "HEAD", "/poll_sse.js?v=1", clientFile()},
		{h, "GET", "/inspect?url=/api", inspectFile()},
		{h, "POST", "/inspect", nil},
		{h, "GET", "/inspect/", nil},
		{h, "GET", "/other", nil},
		{&Handler{Client: "/x"}, "GET", "/inspect", nil},
		{&Handler{Inspect: "/x"}, "GET", "/poll_sse.js", nil},
		{new(Handler), "GET", "/", nil},
	} {
		r := httptest.NewRequest(c.method, c.path, nil)
		if got := c.h.file(r); got != c.want {
			t.Errorf("%s %s: %v", c.method, c.path, got)
		}
	}
	r := httptest.NewRequest("GET", "/", nil)
	r.URL.Path = "" // as a route may make it
	if f := new(Handler).file(r); f != nil {
		t.Error("a path of nothing is a file")
	}

	for _, f := range []*file{clientFile(), inspectFile()} {
		w := httptest.NewRecorder()
		f.serve(w, httptest.NewRequest("GET", "/", nil))
		header := w.Result().Header
		if w.Code != 200 || w.Body.String() != string(f.content) || header.Get("Content-Type") != f.contentType || header.Get("Cache-Control") != "no-cache" {
			t.Errorf("%d %v", w.Code, header)
		}
		r := httptest.NewRequest("GET", "/", nil)
		r.Header.Set("If-None-Match", header.Get("ETag"))
		w = httptest.NewRecorder()
		r.Header.Set("Accept-Encoding", "gzip") // a text of its own
		if f.serve(w, r); w.Code != 200 || w.Header().Get("Content-Encoding") != "gzip" || w.Header().Get("Vary") != "Accept-Encoding" || w.Body.Len() > len(f.content)/2+100 {
			t.Errorf("%d %v", w.Code, w.Header())
		}
		if unzipped, err := gzip.NewReader(w.Body); err != nil {
			t.Error(err)
		} else if text, err := io.ReadAll(unzipped); err != nil || string(text) != string(f.content) {
			t.Errorf("%d bytes, %v", len(text), err)
		}
		r.Header.Del("Accept-Encoding")
		w = httptest.NewRecorder()
		if f.serve(w, r); w.Code != http.StatusNotModified || w.Body.Len() > 0 {
			t.Errorf("%d to who has it", w.Code)
		}
	}
	if clientFile().etag == inspectFile().etag {
		t.Error("two files, one ETag")
	}
}

func TestPolicyLetsOnlyThePageRun(t *testing.T) {
	page := "<style>b{}</style><script type=\"module\">\nf()\n</script>"
	policy := policyOf([]byte(page))
	// printf 'b{}' | openssl dgst -sha256 -binary | base64
	for _, want := range []string{
		"default-src 'none'; ",
		"style-src 'sha256-7yqHVAesot11p6HczDsgKRipvI5UPgs97z80zNXlans='",
		"script-src 'sha256-GpfXNSGA7AfjRV6DlBPnw1DCHfleUrLBhn1GCDoot4A='",
	} {
		if !strings.Contains(policy, want) {
			t.Errorf("%s has no %s", policy, want)
		}
	}
	if strings.Contains(policy, "unsafe") {
		t.Error(policy)
	}
	// What is in the page is all named, and there is no more than one of each.
	text := string(inspector)
	if n, m := strings.Count(text, "<style"), strings.Count(text, "<script"); n != 1 || m != 1 || strings.Contains(text, " style=") {
		t.Errorf("%d styles, %d scripts", n, m)
	}
}
