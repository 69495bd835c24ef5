package pollsse

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"golang.org/x/net/http/httpguts"

	"github.com/pollsse/caddy-poll-sse/internal/jsondiff"
)

const compressGzip = "gzip"

// This file fills in and checks the fields of [Handler].

func (h *Handler) setDefaults() {
	setDefault(&h.Interval, caddy.Duration(2*time.Second))
	setDefault(&h.MaxInterval, h.Interval)
	setDefault(&h.Timeout, caddy.Duration(10*time.Second))
	setDefault(&h.Linger, caddy.Duration(30*time.Second))
	setDefault(&h.Format, formatPatch)
	setDefault(&h.History.Events, 1000)
	setDefault(&h.History.Size, 8<<20)
	setDefault(&h.Heartbeat, caddy.Duration(15*time.Second))
	if h.Retry.Min != 0 {
		setDefault(&h.Retry.Max, 4*h.Retry.Min)
	}
	setDefault(&h.Retry.Min, caddy.Duration(time.Second))
	setDefault(&h.Retry.Max, caddy.Duration(4*time.Second))
	setDefault(&h.Drain, caddy.Duration(3*time.Second))
	setDefault(&h.MaxAge, caddy.Duration(time.Hour))
	setDefault(&h.MaxPollers, 1000)
	setDefault(&h.MaxStreams, 100_000)
	setDefault(&h.MaxViews, 32)
	setDefault(&h.MaxBody, 16<<20)
	setDefault(&h.Compress, compressGzip)
	if len(h.Query) == 0 {
		h.Query = []string{"*"}
	}
	for i, name := range h.ForwardHeader {
		h.ForwardHeader[i] = http.CanonicalHeaderKey(name)
	}
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// check returns the first thing that is wrong with the configuration.
func (h *Handler) check() error {
	for _, d := range []struct {
		name  string
		value caddy.Duration
	}{
		{"interval", h.Interval},
		{"timeout", h.Timeout},
		{"linger", h.Linger},
		{"heartbeat", h.Heartbeat},
		{"retry", h.Retry.Min},
		{"drain", h.Drain},
	} {
		if time.Duration(d.value) < time.Millisecond {
			return fmt.Errorf("%s must be at least 1ms", d.name)
		}
	}
	for _, n := range []struct {
		name  string
		value int64
	}{
		{"history events", int64(h.History.Events)},
		{"history size", h.History.Size},
		{"max_pollers", int64(h.MaxPollers)},
		{"max_streams", int64(h.MaxStreams)},
		{"max_views", int64(h.MaxViews)},
		{"max_body", h.MaxBody},
	} {
		if n.value < 1 {
			return fmt.Errorf("%s must be positive", n.name)
		}
	}
	switch {
	case h.MaxInterval < h.Interval:
		return errors.New("interval must not have a maximum below its minimum")
	case !validFormat(h.Format):
		return fmt.Errorf("format must be patch, full or merge, not %q", h.Format)
	case h.Compress != compressGzip && h.Compress != "off":
		return fmt.Errorf("compress must be gzip or off, not %q", h.Compress)
	case slices.Contains(reservedEventTypes, h.Event):
		return fmt.Errorf("event cannot be %q, which has a meaning of its own", h.Event)
	case h.Event != "" && !validEventType(h.Event):
		return fmt.Errorf("event cannot be %q: it has to be one line, without white space around it", h.Event)
	case slices.Contains(strings.Split(h.Select, "/"), "*"):
		return errors.New("select takes one pointer; * is for selectable, ignore and key")
	case slices.Contains(h.Ignore, ""):
		return errors.New("ignore cannot ignore the whole document")
	case h.Client != "" && !validFilePath(h.Client):
		return fmt.Errorf("client %q is not a path such as /poll_sse.js", h.Client)
	case h.Inspect != "" && !validFilePath(h.Inspect):
		return fmt.Errorf("inspect %q is not a path such as /inspect", h.Inspect)
	case h.Client != "" && strings.EqualFold(h.Client, h.Inspect):
		return errors.New("client and inspect need different paths")
	case h.Retry.Max < h.Retry.Min:
		return errors.New("retry must not have a maximum below its minimum")
	case len(h.Query) > 1 && (slices.Contains(h.Query, "*") || slices.Contains(h.Query, "none")):
		return errors.New("query takes * or none alone, or names")
	}
	if err := checkPointers("select", h.Select); err != nil {
		return err
	}
	if err := checkPointers("selectable", h.Selectable...); err != nil {
		return err
	}
	if err := checkPointers("ignore", h.Ignore...); err != nil {
		return err
	}
	for i, k := range h.Key {
		if err := checkPointers("key", k.Pointer); err != nil {
			return err
		}
		if strings.Contains(k.Pointer, "/[") {
			return fmt.Errorf("key %q cannot name items by their members; use *", k.Pointer)
		}
		if slices.ContainsFunc(h.Key[:i], func(other arrayKey) bool { return other.Pointer == k.Pointer }) {
			return fmt.Errorf("key %q is given twice", k.Pointer)
		}
	}
	for i, name := range h.ForwardHeader {
		if !forwardable(name) {
			return fmt.Errorf("forward_header cannot forward %q: it is no name, or polls set it themselves", name)
		}
		if slices.Contains(h.ForwardHeader[:i], name) {
			return fmt.Errorf("forward_header names %s twice", name)
		}
	}
	return nil
}

func checkPointers(option string, pointers ...string) error {
	for _, p := range pointers {
		if !jsondiff.ValidPointer(p) {
			return fmt.Errorf("%s %q is not a JSON Pointer (RFC 6901) such as /prices/3", option, p)
		}
		if option != "selectable" && strings.Contains(p, "=*]") {
			return fmt.Errorf("%s %q: items named as in [id=*] are for selectable; use *", option, p)
		}
	}
	return nil
}

// forwardable reports whether a header field can be part of a poll: those that
// belong to one connection (RFC 9110 §7.6.1) or one exchange cannot.
func forwardable(name string) bool {
	switch name {
	case "*", "Accept", "Accept-Encoding", "Connection", "Content-Length", "Expect", "Host", "Keep-Alive", "Last-Event-Id",
		"Proxy-Connection", "Range", "Te", "Trailer", "Transfer-Encoding", "Upgrade":
		return false
	}
	return httpguts.ValidHeaderFieldName(name) && !strings.HasPrefix(name, "If-")
}
