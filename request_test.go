package pollsse

import (
	"bufio"
	"net/http"
	"net/http/httptest"
	"net/url"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// The grammar of header fields that are lists (RFC 9110 §5.6.1, §12.4.2, §12.5; RFC 7240
// §2).
const (
	space         = `[ \t]*`
	token         = "[-!#$%&'*+.^_`|~0-9A-Za-z]+"
	quoted        = `"(?:[^"\\]|\\.)*"`
	weight        = `[qQ]=(?:0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?)`
	parameterForm = space + `;` + space + `(?:` + weight + `|(?:[^qQ\W]|` + token + token + `)=(?:` + token + `|` + quoted + `))`
)

// listOf returns what matches lists of such elements.
func listOf(element string) *regexp.Regexp {
	element = space + `(?:` + element + `)?` + space
	return regexp.MustCompile(`^` + element + `(?:,` + element + `)*$`)
}

var (
	accepted  = listOf(token + `/` + token + `(?:` + parameterForm + `)*`)
	encodings = listOf(token + `(?:` + space + `;` + space + weight + `)?`)
	preferred = listOf(token + `(?:` + space + `=` + space + `(?:` + token + `|` + quoted + `))?` +
		`(?:` + space + `;` + space + `(?:` + token + `(?:=(?:` + token + `|` + quoted + `))?)?)*`)

	elementForm = regexp.MustCompile(`(?:[^",]|` + quoted + `)+`)
	partForm    = regexp.MustCompile(`(?:[^";]|` + quoted + `)+`)
	zero        = regexp.MustCompile(`^q=0(\.0*)?$`)
)

// partsOf returns the elements of a well-formed list, each as what its semicolons
// divide, in lower case.
func partsOf(field string) (elements [][]string) {
	for _, e := range elementForm.FindAllString(field, -1) {
		parts := partForm.FindAllString(strings.ToLower(e), -1)
		for i := range parts {
			parts[i] = strings.Trim(parts[i], " \t")
		}
		elements = append(elements, parts)
	}
	return elements
}

// refused reports whether the first weight among the parts is zero.
func refused(parts []string) bool {
	i := slices.IndexFunc(parts, func(part string) bool { return strings.HasPrefix(part, "q=") })
	return i >= 0 && zero.MatchString(parts[i])
}

// Whatever a client sends is read, and what has the form that it should have is read
// as a plainer reader does.
func FuzzAccept(f *testing.F) {
	seeds := 0
	add := func(field string) { f.Add(field); seeds++ }
	for _, c := range accepts {
		add(strings.Join(c.accept, ", "))
	}
	for field := range acceptEncodings {
		add(field)
	}
	for _, c := range preferences {
		add(c.header)
	}
	add(`text/event-stream;a="\";q=0;,";q=1.0`)
	if seeds < 30 {
		f.Fatalf("only %d seeds", seeds)
	}
	f.Fuzz(func(t *testing.T, field string) {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.Header = http.Header{"Accept": {field}, "Accept-Encoding": {field}, "Prefer": {field}, "If-None-Match": {field}}
		stream, gzip, ids := wantsStream(r), acceptsGzip(r), knownIDs(r)
		wait, ok := preferredWait(r)

		if accepted.MatchString(field) {
			want := slices.ContainsFunc(partsOf(field), func(parts []string) bool {
				return parts[0] == "text/event-stream" && !refused(parts)
			})
			if stream != want {
				t.Errorf("Accept: %s: %v", field, stream)
			}
		}
		if encodings.MatchString(field) {
			if want, clear := gzipWanted(partsOf(field)); clear && gzip != want {
				t.Errorf("Accept-Encoding: %s: %v", field, gzip)
			}
		}
		if preferred.MatchString(field) {
			if want, long, clear := waitWanted(partsOf(field)); clear && (ok != long || wait != want) {
				t.Errorf("Prefer: %s: %v, %v", field, wait, ok)
			}
		}
		for _, id := range ids {
			if !strings.Contains(field, id.String()) {
				t.Errorf("If-None-Match: %s: %v", field, id)
			}
		}
	})
}

// gzipWanted says whether gzip is accepted; clear is false where that is said twice.
func gzipWanted(elements [][]string) (want, clear bool) {
	said := make(map[string]bool)
	for _, parts := range elements {
		name := strings.TrimPrefix(parts[0], "x-") // RFC 9110 §8.4.1.3
		if _, ok := said[name]; ok {
			return false, false
		}
		said[name] = !refused(parts)
	}
	if want, ok := said["gzip"]; ok {
		return want, true
	}
	return said["*"], true
}

// waitWanted says how long a long-poll waits; clear is false for what has no seconds in
// the form of RFC 7240 §4.3, or more than ten years of them.
func waitWanted(elements [][]string) (wait time.Duration, long, clear bool) {
	for _, parts := range elements {
		name, value, _ := strings.Cut(parts[0], "=")
		if strings.TrimRight(name, " \t") != "wait" {
			continue
		}
		value = strings.TrimLeft(value, " \t")
		if text, err := strconv.Unquote(value); err == nil {
			value = text
		}
		seconds, err := strconv.Atoi(value)
		form := regexp.MustCompile(`^[0-9]{1,9}$`)
		return min(time.Duration(seconds)*time.Second, time.Minute), true, err == nil && form.MatchString(value)
	}
	return 0, false, true
}

// A poll asks for what the client asks for, but for our own parameters, and a poll of
// the poll would ask for the same; and the place where a client left off is found.
func FuzzRequest(f *testing.F) {
	seeds := 0
	for _, c := range lastEventIDs {
		f.Add(c.uri, c.header)
		seeds++
	}
	for _, uri := range []string{
		"/a/b?x=1&y=%32", "http://Example.com:81/a%2Fb?x=2&sse_format=full&&a=%33", "//host/x?padding=true&PADDING=TRUE", "/%C3%A9//../?sse%5Fselect=/a/0;b=1",
		"/a?b?c#d", "*", "/?sse_status=maybe&sse_select=%zz&sse_select=/~2", "/?%73se_x&=&=1&+=2",
	} {
		f.Add(uri, eventID{1, 2, 3}.String())
	}
	if seeds == 0 {
		f.Fatal("no seeds")
	}
	h := new(Handler)
	h.setDefaults()
	f.Fuzz(func(t *testing.T, uri, id string) {
		r, err := http.ReadRequest(bufio.NewReader(strings.NewReader("GET " + uri + " HTTP/1.1\r\nHost: Example.com\r\n\r\n")))
		if err != nil {
			return
		}
		r.Header.Set("Accept", "text/event-stream")
		server := new(caddyhttp.Server)
		r = caddyhttp.PrepareRequest(r, caddy.NewReplacer(), httptest.NewRecorder(), server)
		if a, ok, err := h.ask(r); !ok || err == nil && a.pointer != "" {
			t.Errorf("%s: a stream %v, of %q", uri, ok, a.pointer)
		}

		target := h.newTarget(r)
		poll, err := target.newRequest(t.Context(), server, httptest.NewRecorder())
		if err != nil {
			t.Fatalf("%s: %v", uri, err)
		}
		if again := h.newTarget(poll); again.key() != target.key() {
			t.Errorf("%s: %q is polled as %q", uri, target.key(), again.key())
		}
		path := r.URL.EscapedPath()
		if got := poll.URL.EscapedPath(); got != path && got != "/"+path {
			t.Errorf("%s: the poll's path is %s", uri, got)
		}
		if got, want := poll.URL.Query(), theirs(r.URL.Query()); !reflect.DeepEqual(got, want) {
			t.Errorf("%s: the poll's query is %v, want %v", uri, got, want)
		}

		poll.URL.RawQuery += "&lastEventId=" + url.QueryEscape(id)
		poll = caddyhttp.PrepareRequest(poll, caddy.NewReplacer(), httptest.NewRecorder(), server)
		if got := lastEventID(poll); got != id {
			t.Errorf("%s: last event id %q, want %q", uri, got, id)
		}
		poll.Header.Set("Last-Event-ID", id+"x")
		if got := lastEventID(poll); got != id+"x" {
			t.Errorf("%s: last event id %q, want %q", uri, got, id+"x")
		}
	})
}

// theirs returns a query without our own parameters.
func theirs(query url.Values) url.Values {
	out := make(url.Values)
	for name, values := range query {
		lower := strings.ToLower(name)
		switch {
		case strings.HasPrefix(lower, "sse_"), lower == "lasteventid", lower == "last_event_id", lower == "last-event-id":
			continue
		case lower == "padding":
			values = slices.DeleteFunc(values, func(value string) bool { return value == "true" })
		}
		if len(values) > 0 {
			out[name] = values
		}
	}
	return out
}
