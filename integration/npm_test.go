package integration

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha512"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// npmFile returns a file of a package in the npm registry, whose tarball has that SHA-512.
func npmFile(t *testing.T, name, version, sum, file string) string {
	t.Helper()
	var text string
	unpack(t, npmTarball(t, name, version, sum), func(path string, content []byte) {
		if path == file {
			text = string(content)
		}
	})
	if text == "" {
		t.Fatalf("%s %s has no %s", name, version, file)
	}
	return text
}

// npmPackage puts a package into dir, where scripts find it.
func npmPackage(t *testing.T, dir, name, version, sum string) {
	t.Helper()
	unpack(t, npmTarball(t, name, version, sum), func(path string, content []byte) {
		file := filepath.Join(dir, "node_modules", name, filepath.FromSlash(path))
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, content, 0o600); err != nil {
			t.Fatal(err)
		}
	})
}

// unpack visits the files of a package.
func unpack(t *testing.T, tarball []byte, visit func(path string, content []byte)) {
	t.Helper()
	unzipped, err := gzip.NewReader(bytes.NewReader(tarball))
	if err != nil {
		t.Fatal(err)
	}
	for archive := tar.NewReader(unzipped); ; {
		header, err := archive.Next()
		if err == io.EOF {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		path, ok := strings.CutPrefix(header.Name, "package/")
		if !ok || !filepath.IsLocal(path) || header.Typeflag != tar.TypeReg {
			continue
		}
		content, err := io.ReadAll(archive)
		if err != nil {
			t.Fatal(err)
		}
		visit(path, content)
	}
}

var npmTarballs sync.Map // by sum

// npmTarball returns a package's tarball, which has that SHA-512.
func npmTarball(t *testing.T, name, version, sum string) []byte {
	t.Helper()
	if tarball, ok := npmTarballs.Load(sum); ok {
		return tarball.([]byte)
	}
	url := fmt.Sprintf("https://registry.npmjs.org/%s/-/%s-%s.tgz", name, path.Base(name), version)
	tarball, err := download(url)
	for tries := 1; err != nil && tries < 6; tries++ {
		time.Sleep(time.Duration(2*tries) * time.Second)
		tarball, err = download(url)
	}
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skipf("the npm registry cannot be reached: %v", err)
	}
	if got := sha512.Sum512(tarball); base64.StdEncoding.EncodeToString(got[:]) != sum {
		t.Fatalf("%s %s is another file than expected", name, version)
	}
	npmTarballs.Store(sum, tarball)
	return tarball
}

func download(url string) ([]byte, error) {
	client := &http.Client{Timeout: time.Minute}
	response, err := client.Get(url)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %s", url, response.Status)
	}
	return io.ReadAll(response.Body)
}

// serve makes a page of files in front of Caddy, as one site.
func serve(t *testing.T, c *caddy, files map[string]string) (page string) {
	t.Helper()
	site := &httputil.ReverseProxy{Transport: c.h1.Transport}
	site.Rewrite = func(r *httputil.ProxyRequest) { r.SetURL(&url.URL{Scheme: "http", Host: "localhost"}) }
	return serveFiles(t, files, site)
}

// serveFiles makes a page of files in front of another server, as one site.
func serveFiles(t *testing.T, files map[string]string, behind http.Handler) (page string) {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		text, ok := files[r.URL.Path]
		if !ok {
			behind.ServeHTTP(w, r)
			return
		}
		if strings.HasSuffix(r.URL.Path, "js") { // also .mjs
			w.Header().Set("Content-Type", "text/javascript")
		}
		io.WriteString(w, text)
	}))
	t.Cleanup(func() {
		server.CloseClientConnections()
		server.Close()
	})
	return server.URL + "/"
}

// testHTMX runs the example of docs/recipes.md with htmx 2, and what it says of htmx 4.
func testHTMX(t *testing.T, browser context.Context) {
	two := map[string]string{
		"/htmx.js": npmFile(t, "htmx.org", "2.0.11", "Thx/WtpeOQqSrqBCw/A1cwGJGg4UrVa3+sW0GmrM3p4gJgO89ecH4qtbnyzDDWFvBTqjnIMCgELTNt636dtamA==", "dist/htmx.min.js"),
		"/sse.js":  npmFile(t, "htmx-ext-sse", "2.2.4", "LJmxVhykyflBWgh5PvbRidcyuqMHlgfajmmzumvKctv9puvsufeH6OaejSMZTNTnEI8O2wXXn4ZZtBdpEMqmEQ==", "dist/sse.min.js"),
		"/":        blocksOf(t, "docs/recipes.md", "html htmx")[0],
	}
	const four = "oF7JgXhDW9UXCy/k1ZYFUQgzu/rm19ORWPSPNL91vPluB2PB9+MV55tyQdH/w7o2EAbTYUG5SDW1R60mdkdqGg=="
	for name, files := range map[string]map[string]string{
		"event price": two,
		"": {
			"/htmx.js": npmFile(t, "htmx.org", "4.0.1", four, "dist/htmx.min.js"),
			"/sse.js":  npmFile(t, "htmx.org", "4.0.1", four, "dist/ext/hx-sse.min.js"),
			"/":        `<script src="/htmx.js"></script><script src="/sse.js"></script><b hx-sse:connect="/api/prices?sse_format=full&sse_select=/prices/[id=apples]/price"></b>`,
		},
	} {
		files["/"] = "<!doctype html>" + strings.NewReplacer("https://unpkg.com/htmx.org@2.0.11", "/htmx.js", "https://unpkg.com/htmx-ext-sse@2.2.4", "/sse.js").Replace(files["/"])
		u := newUpstream(t, apples(0))
		c := start(t, recipe(t, recipes, "htmx", "localhost:9000", u.Listener.Addr().String(), "event price", name+"\ninterval 20ms"))
		tab := openTab(t, browser, serve(t, c, files))
		for n := range 4 {
			u.set(apples(n))
			c.eventually(fmt.Sprintf("%q: price %d is shown", name, n), func() bool {
				return evaluate[string](t, tab, `document.querySelector('b').textContent`) == fmt.Sprint(n)
			})
		}
	}
}

func apples(price int) string {
	return fmt.Sprintf(`{"prices":[%s{"id":"apples","price":%d}]}`, strings.Repeat(`{"id":"pears"},`, price), price)
}

// testPolyfill runs the example of docs/recipes.md with the polyfill, which says in the query
// where it left off, and is cut off in between.
func testPolyfill(t *testing.T, browser context.Context) {
	price := func(n int) string { return fmt.Sprintf(`{"prices":[{"price":%d}]}`, n) }
	u := newUpstream(t, price(0))
	c := start(t, recipe(t, recipes, "token", "localhost:9000", u.Listener.Addr().String(), "forward_header", "interval 20ms\nretry 10ms\nmax_age 1s\nforward_header"))
	tab := openTab(t, browser, serve(t, c, map[string]string{
		"/":                   "<!doctype html><script>const token = 'me'</script>" + blocksOf(t, "docs/recipes.md", "html polyfill")[0],
		"/eventsource.min.js": npmFile(t, "event-source-polyfill", "1.0.31", "4IJSItgS/41IxN5UVAVuAyczwZF7ZIEsM1XAoUzIHA6A+xzusEZUutdXz2Nr+MQPLxfTiCvqE79/C8HT8fKFvA==", "src/eventsource.min.js"),
	}))
	for n := range 10 { // streams end after a second
		u.set(price(n))
		c.eventually(fmt.Sprintf("price %d is shown", n), func() bool { return evaluate[int](t, tab, `price ?? -1`) == n })
		time.Sleep(300 * time.Millisecond)
	}
	if got := u.lastPoll().Header.Get("Authorization"); got != "Bearer me" {
		t.Errorf("polled with Authorization %q", got)
	}
	outcome := func(name string) int { return c.metric(`caddy_poll_sse_resumes_total{outcome="` + name + `"}`) }
	c.eventually("streams say where the one before left off", func() bool { return outcome("held")+outcome("snapshot") >= 2 })
	if n := outcome("new"); n != 1 {
		t.Errorf("%d streams did not", n)
	}
}
