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

// elements returns the elements of a list (RFC 9110 §5.6.1). Commas in quoted strings
// do not end one.
func elements(fields []string) iter.Seq[string] {
	return func(yield func(string) bool) {
		for _, field := range fields {
			quoted, from := false, 0
			for i := 0; i < len(field); i++ {
				switch c := field[i]; {
				case c == '"':
					quoted = !quoted
				case c == '\\' && quoted:
					i++
				case c == ',' && !quoted:
					if !yield(field[from:i]) {
						return
					}
					from = i + 1
				}
			}
			if !yield(field[from:]) {
				return
			}
		}
	}
}

// zeroWeight reports whether parameters say q=0 (RFC 9110 §12.4.2).
func zeroWeight(parameters string) bool {
	for parameter := range strings.SplitSeq(parameters, ";") {
		name, value, _ := strings.Cut(strings.TrimSpace(parameter), "=")
		if strings.EqualFold(strings.TrimSpace(name), "q") {
			weight, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
			return err == nil && weight == 0
		}
	}
	return false
}

// wish returns what the client wishes to be sent, and whether it wants notices. Errors
// are for the client to read.
func (h *Handler) wish(r *http.Request) (w wish, notices bool, err error) {
	w = wish{h.Format, h.Select}
	if !strings.Contains(r.URL.RawQuery, "sse_") {
		return w, false, nil
	}
	query := r.URL.Query()
	if format := query.Get("sse_format"); format != "" {
		w.format = format
	}
	if query.Has("sse_select") {
		w.pointer = query.Get("sse_select")
	}
	allowed := func(pattern string) bool { return jsondiff.Match(pattern, w.pointer) }
	switch {
	case !validFormat(w.format):
		return w, false, fmt.Errorf("sse_format must be patch, full or merge, not %q", w.format)
	case len(w.pointer) > maxPointer:
		return w, false, errors.New("sse_select is too long")
	case !jsondiff.ValidPointer(w.pointer):
		return w, false, fmt.Errorf("sse_select must be a JSON Pointer (RFC 6901), not %q", w.pointer)
	case w.pointer != h.Select && !slices.ContainsFunc(h.Selectable, allowed):
		return w, false, fmt.Errorf("sse_select=%s is not selectable here", w.pointer)
	}
	switch status := query.Get("sse_status"); status {
	case "1", "true":
		notices = true
	case "":
		notices = query.Has("sse_status")
	case "0", "false":
	default:
		return w, false, fmt.Errorf("sse_status must be true or false, not %q", status)
	}
	return w, notices, nil
}

// maxPointer is how long a pointer from a client may be, in bytes.
const maxPointer = 1 << 10

func validFormat(format string) bool {
	return format == formatPatch || format == formatFull || format == formatMerge
}

// lastEventIDParameters are what polyfills call the parameter in which they send
// the last event id, since they cannot set headers.
var lastEventIDParameters = []string{"lasteventid", "last_event_id", "last-event-id"}

// lastEventID returns where the client left off, "" where it does not say.
func lastEventID(r *http.Request) string {
	if id := r.Header.Get("Last-Event-ID"); id != "" {
		return id
	}
	for name, value := range parameters(r) {
		if value != "" && slices.Contains(lastEventIDParameters, name) {
			return value
		}
	}
	return ""
}

// parameters returns the names, in lower case, and the values of the parameters in the
// query of r that are well-formed.
func parameters(r *http.Request) iter.Seq2[string, string] {
	return func(yield func(name, value string) bool) {
		for parameter := range strings.SplitSeq(r.URL.RawQuery, "&") {
			name, value, _ := strings.Cut(parameter, "=")
			name, errName := url.QueryUnescape(name)
			value, errValue := url.QueryUnescape(value)
			if errName == nil && errValue == nil && !yield(strings.ToLower(name), value) {
				return
			}
		}
	}
}

// wantsPadding reports whether the client is a polyfill that asks for it.
func wantsPadding(r *http.Request) bool {
	for name, value := range parameters(r) {
		if isPadding(name, value) {
			return true
		}
	}
	return false
}

func isPadding(name, value string) bool { return name == "padding" && value == "true" }

// fromWebKit reports whether r comes from WebKit's own EventSource.
func fromWebKit(r *http.Request) bool {
	agent := r.Header.Get("User-Agent")
	return strings.Contains(agent, "AppleWebKit") && !strings.Contains(agent, "Chrome/") &&
		r.Header.Get("Accept") == "text/event-stream" && r.Header.Get("Cache-Control") == "no-cache"
}
