package pollsse

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// wantsStream reports whether r asks for an event stream by name: */* does not.
func wantsStream(r *http.Request) bool {
	if r.Method != http.MethodGet {
		return false
	}
	for _, header := range r.Header["Accept"] {
		for mediaRange := range strings.SplitSeq(header, ",") {
			name, parameters, _ := strings.Cut(mediaRange, ";")
			if strings.EqualFold(strings.TrimSpace(name), "text/event-stream") && !zeroWeight(parameters) {
				return true
			}
		}
	}
	return false
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

// format returns what the client wishes its events to be.
func (h *Handler) format(r *http.Request) (string, error) {
	if !strings.Contains(r.URL.RawQuery, "sse_") {
		return h.Format, nil
	}
	query := r.URL.Query()
	if query.Has("sse_select") {
		return "", errors.New("sse_select is not allowed here")
	}
	switch format := query.Get("sse_format"); format {
	case "":
		return h.Format, nil
	case formatPatch, formatFull:
		return format, nil
	default:
		return "", fmt.Errorf("sse_format must be patch or full, not %q", format)
	}
}

// lastEventIDParameters are what polyfills call the parameter in which they send
// the last event id, since they cannot set headers.
var lastEventIDParameters = []string{"lasteventid", "last_event_id", "last-event-id"}

// lastEventID returns where the client left off, "" where it does not say.
func lastEventID(r *http.Request) string {
	if id := r.Header.Get("Last-Event-ID"); id != "" {
		return id
	}
	for parameter := range strings.SplitSeq(r.URL.RawQuery, "&") {
		name, value, _ := strings.Cut(parameter, "=")
		name, errName := url.QueryUnescape(name)
		value, errValue := url.QueryUnescape(value)
		if errName == nil && errValue == nil && value != "" && slices.Contains(lastEventIDParameters, strings.ToLower(name)) {
			return value
		}
	}
	return ""
}

// fromWebKit reports whether r comes from WebKit's own EventSource.
func fromWebKit(r *http.Request) bool {
	agent := r.Header.Get("User-Agent")
	return strings.Contains(agent, "AppleWebKit") && !strings.Contains(agent, "Chrome/") &&
		r.Header.Get("Accept") == "text/event-stream" && r.Header.Get("Cache-Control") == "no-cache"
}
