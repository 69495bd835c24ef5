package pollsse

import (
	"errors"
	"fmt"
	"iter"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pollsse/caddy-poll-sse/internal/jsondiff"
)

// wantsStream reports whether r asks for an event stream by name: */* does not.
func wantsStream(r *http.Request) bool {
	if r.Method != http.MethodGet {
		return false
	}
	for mediaRange := range elements(r.Header["Accept"]) {
		name, parameters, _ := strings.Cut(mediaRange, ";")
		if strings.EqualFold(strings.TrimSpace(name), "text/event-stream") && !zeroWeight(parameters) {
			return true
		}
	}
	return false
}

// acceptsGzip reports whether the answer to r may be compressed by gzip (RFC 9110
// §12.5.3).
func acceptsGzip(r *http.Request) (accepts bool) {
	for coding := range elements(r.Header["Accept-Encoding"]) {
		name, parameters, _ := strings.Cut(coding, ";")
		switch strings.ToLower(strings.TrimSpace(name)) {
		case "gzip", "x-gzip":
			return !zeroWeight(parameters)
		case "*":
			accepts = !zeroWeight(parameters)
		}
	}
	return accepts
}

// elements returns the elements of a list (RFC 9110 §5.6.1).
func elements(fields []string) iter.Seq[string] {
	return func(yield func(string) bool) {
		for _, field := range fields {
			for element := range divided(field, ',') {
				if !yield(element) {
					return
				}
			}
		}
	}
}

// divided returns the parts of s between separators. Those in quoted strings do not end
// one.
func divided(s string, separator byte) iter.Seq[string] {
	return func(yield func(string) bool) {
		quoted, from := false, 0
		for i := 0; i < len(s); i++ {
			switch c := s[i]; {
			case c == '"':
				quoted = !quoted
			case c == '\\' && quoted:
				i++
			case c == separator && !quoted:
				if !yield(s[from:i]) {
					return
				}
				from = i + 1
			}
		}
		yield(s[from:])
	}
}

// zeroWeight reports whether parameters say q=0 (RFC 9110 §12.4.2).
func zeroWeight(parameters string) bool {
	for parameter := range divided(parameters, ';') {
		name, value, _ := strings.Cut(strings.TrimSpace(parameter), "=")
		if strings.EqualFold(strings.TrimSpace(name), "q") {
			weight, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
			return err == nil && weight == 0
		}
	}
	return false
}

// ask is what a client asks for.
type ask struct {
	wish
	stream   bool // else a long-poll
	notices  notices
	resuming bool          // the client has a document
	known    []eventID     // of the documents that it has
	wait     time.Duration // of a long-poll
	began    time.Time
}

// ask reads what the client asks for; ok is false where that is not for us. Errors are
// for the client to read.
func (h *Handler) ask(r *http.Request) (a *ask, ok bool, err error) {
	a = &ask{stream: wantsStream(r), began: time.Now()}
	if a.wait, ok = preferredWait(r); !ok && !a.stream {
		return nil, false, nil
	}
	if a.wish, a.notices, err = h.wish(r); err != nil {
		return nil, true, err
	}
	if a.stream {
		text := lastEventID(r)
		a.resuming = text != ""
		if id, ok := parseEventID(text); ok {
			a.known = []eventID{id}
		}
	} else {
		a.known = knownIDs(r)
		a.resuming = len(a.known) > 0
	}
	return a, true, nil
}

// wish returns what the client wishes to be sent, and to be told. Errors are for the
// client to read.
func (h *Handler) wish(r *http.Request) (w wish, n notices, err error) {
	w = wish{h.Format, h.Select}
	for p := range parameters(originalURL(r).RawQuery) {
		switch {
		case p.is("sse_format") && p.value != "":
			w.format = p.value
		case p.is("sse_select"):
			w.pointer = p.value
		case p.is("sse_status") && slices.Contains([]string{"", "1", "true"}, p.value):
			n = turnNotices
		case p.is("sse_status") && p.value == "polls" && h.Inspect != "":
			n = pollNotices
		case p.is("sse_status") && p.value != "0" && p.value != "false":
			return w, noNotices, errors.New("sse_status must be true or false, or polls where the option inspect is set")
		}
	}
	allowed := func(pattern string) bool { return jsondiff.Match(pattern, w.pointer) }
	switch {
	case !validFormat(w.format):
		return w, noNotices, errors.New("sse_format must be patch, full or merge")
	case len(w.pointer) > maxPointer:
		return w, noNotices, errors.New("sse_select is too long")
	case !jsondiff.ValidPointer(w.pointer):
		return w, noNotices, fmt.Errorf("sse_select must be a JSON Pointer (RFC 6901), not %q", w.pointer)
	case w.pointer != h.Select && !slices.ContainsFunc(h.Selectable, allowed):
		return w, noNotices, fmt.Errorf("sse_select=%s is not selectable here", w.pointer)
	}
	return w, n, nil
}

// maxPointer is how long a pointer from a client may be, in bytes.
const maxPointer = 1 << 10

// lastEventIDParameters are what polyfills call the parameter in which they send
// the last event id, since they cannot set headers.
var lastEventIDParameters = []string{"lasteventid", "last_event_id", "last-event-id"}

// lastEventID returns where the client left off, "" where it does not say.
func lastEventID(r *http.Request) string {
	if id := r.Header.Get("Last-Event-ID"); id != "" {
		return id
	}
	id := ""
	for p := range parameters(originalURL(r).RawQuery) {
		if p.value != "" && p.is(lastEventIDParameters...) {
			id = p.value // the last one: clients add it to URLs that may have one
		}
	}
	return id
}

// parameter is one of a query: as it stands there, and what it says.
type parameter struct{ raw, name, value string }

// parameters returns the parameters of a query. What is escaped badly stays as it is.
func parameters(rawQuery string) iter.Seq[parameter] {
	unescape := func(s string) string {
		if unescaped, err := url.QueryUnescape(s); err == nil {
			return unescaped
		}
		return s
	}
	return func(yield func(parameter) bool) {
		for raw := range strings.SplitSeq(rawQuery, "&") {
			name, value, _ := strings.Cut(raw, "=")
			if !yield(parameter{raw, unescape(name), unescape(value)}) {
				return
			}
		}
	}
}

// is reports whether the parameter has one of the names, in upper or lower case.
func (p parameter) is(names ...string) bool {
	return slices.Contains(names, strings.ToLower(p.name))
}

// isOwn reports whether the parameter is meant for us.
func (p parameter) isOwn() bool {
	return strings.HasPrefix(strings.ToLower(p.name), "sse_") || p.is(lastEventIDParameters...) || p.isPadding()
}

// isPadding reports whether a polyfill asks for padding.
func (p parameter) isPadding() bool { return p.is("padding") && p.value == "true" }

// fromWebKit reports whether r comes from WebKit's own EventSource.
func fromWebKit(r *http.Request) bool {
	agent := r.Header.Get("User-Agent")
	return strings.Contains(agent, "AppleWebKit") && !strings.Contains(agent, "Chrome/") &&
		r.Header.Get("Accept") == "text/event-stream" && r.Header.Get("Cache-Control") == "no-cache"
}
