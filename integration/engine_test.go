package integration

import (
	"bytes"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// engine is what a browser's engine does between the network and the listeners of a
// page's EventSource. Chromium's is there to be tested itself, see [TestBrowser];
// these follow the sources of the others, step by step, with what they have of their own.
type engine interface {
	// header returns that of the next request.
	header() http.Header
	// receive takes bytes of a response's body and returns the events that they dispatch.
	receive(body []byte) []message
	// end tells that the connection is over: cleanly, or by an error.
	end(clean bool)
	// reconnectsAfter returns how long the engine waits before the next request.
	reconnectsAfter() time.Duration
}

// message is an event as listeners get it.
type message struct{ kind, data, lastEventID string }

// follows reports whether an EventSource goes on with the response; otherwise it is
// closed for good. WebKit: EventSource::responseIsValid in
// Source/WebCore/page/EventSource.cpp; Firefox: EventSourceImpl::OnStartRequest in
// dom/base/EventSource.cpp.
func follows(response *http.Response) bool {
	kind, _, _ := strings.Cut(response.Header.Get("Content-Type"), ";")
	return response.StatusCode == http.StatusOK && kind == "text/event-stream"
}

// webKit is the EventSource of Source/WebCore/page/EventSource.cpp.
type webKit struct {
	agent       string
	buffer      []byte // what has come of a line
	afterCR     bool
	data        []byte // of the event that is being received, each line with its line feed
	kind        string // of that event
	id          string // of that event
	hasID       bool
	lastEventID string
	retry       time.Duration
	looked      int // characters that parseEventStream has looked at
}

const (
	safariAgent = "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.5 Safari/605.1.15"
	chromeAgent = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/150.0.0.0 Safari/537.36"
)

func newWebKit(agent string) *webKit { return &webKit{agent: agent, retry: 3 * time.Second} }

// EventSource::connect.
func (w *webKit) header() http.Header {
	header := http.Header{"User-Agent": {w.agent}, "Accept": {"text/event-stream"}, "Cache-Control": {"no-cache"}}
	if w.lastEventID != "" {
		header.Set("Last-Event-ID", w.lastEventID)
	}
	return header
}

// EventSource::didReceiveData and parseEventStream, which begins anew at the start of a
// line whenever more of it has come: long lines cost the square of their length.
func (w *webKit) receive(body []byte) (messages []message) {
	w.buffer = append(w.buffer, body...)
	for len(w.buffer) > 0 {
		if w.afterCR && w.buffer[0] == '\n' {
			w.buffer = w.buffer[1:]
		}
		w.afterCR = false
		end := bytes.IndexAny(w.buffer, "\r\n")
		if end < 0 {
			w.looked += len(w.buffer)
			break
		}
		w.looked += end + 1
		line := string(w.buffer[:end])
		w.afterCR = w.buffer[end] == '\r'
		w.buffer = w.buffer[end+1:]
		messages = append(messages, w.line(line)...)
	}
	return messages
}

// EventSource::parseEventStreamLine and dispatchMessageEvent. An id waits for its event,
// and an empty one counts: it is not null.
func (w *webKit) line(line string) (messages []message) {
	field, value, _ := strings.Cut(line, ":")
	value = strings.TrimPrefix(value, " ")
	switch {
	case line == "" && len(w.data) > 0:
		if w.hasID {
			w.lastEventID, w.id, w.hasID = w.id, "", false
		}
		messages = []message{{kindOf(w.kind), string(w.data[:len(w.data)-1]), w.lastEventID}}
		w.data, w.kind = nil, ""
	case line == "":
		w.kind = ""
	case field == "data":
		w.data = append(append(w.data, value...), '\n')
	case field == "event":
		w.kind = value
	case field == "id" && !strings.Contains(value, "\x00"):
		w.id, w.hasID = value, true
	case field == "retry" && value == "":
		w.retry = 3 * time.Second
	case field == "retry":
		if ms, err := strconv.ParseUint(value, 10, 64); err == nil {
			w.retry = time.Duration(ms) * time.Millisecond
		}
	}
	return messages
}

// EventSource::didFinishLoading drops what was received of an event; didFail does not,
// and not even what was received of a line.
func (w *webKit) end(clean bool) {
	if clean {
		w.buffer, w.data, w.kind, w.id, w.hasID = nil, nil, "", "", false
	}
}

func (w *webKit) reconnectsAfter() time.Duration { return w.retry }

func kindOf(kind string) string {
	if kind == "" {
		return "message"
	}
	return kind
}

// firefox is the EventSourceImpl of dom/base/EventSource.cpp.
type firefox struct {
	state       func(*firefox, byte) []message
	name, value []byte // of the field that is being received
	data        []byte // of the event
	kind, id    string
	hasID       bool
	lastEventID string
	retry       time.Duration
}

func newFirefox() *firefox {
	return &firefox{state: (*firefox).beginOfLine, retry: 5 * time.Second}
}

// EventSourceImpl::SetupHttpChannel; LOAD_BYPASS_CACHE adds the other two.
func (f *firefox) header() http.Header {
	header := http.Header{
		"User-Agent":    {"Mozilla/5.0 (X11; Linux x86_64; rv:145.0) Gecko/20100101 Firefox/145.0"},
		"Accept":        {"text/event-stream"},
		"Cache-Control": {"no-cache"},
		"Pragma":        {"no-cache"},
	}
	if f.lastEventID != "" {
		header.Set("Last-Event-ID", f.lastEventID)
	}
	return header
}

// EventSourceImpl::ParseSegment, and ParseCharacter, whose states are the methods below.
func (f *firefox) receive(body []byte) (messages []message) {
	for _, c := range body {
		messages = append(messages, f.state(f, c)...)
	}
	return messages
}

func (f *firefox) beginOfLine(c byte) []message {
	switch c {
	case '\r':
		f.state = (*firefox).afterCR
		return f.dispatch()
	case '\n':
		return f.dispatch()
	case ':':
		f.state = (*firefox).restOfLine
	case 0:
	default:
		f.name = append(f.name, c)
		f.state = (*firefox).fieldName
	}
	return nil
}

func (f *firefox) afterCR(c byte) []message {
	f.state = (*firefox).beginOfLine
	if c == '\n' {
		return nil
	}
	return f.beginOfLine(c)
}

func (f *firefox) restOfLine(c byte) []message {
	f.endsLine(c)
	return nil
}

func (f *firefox) endsLine(c byte) bool {
	switch c {
	case '\r':
		f.state = (*firefox).afterCR
	case '\n':
		f.state = (*firefox).beginOfLine
	default:
		return false
	}
	return true
}

func (f *firefox) fieldName(c byte) []message {
	switch {
	case f.endsLine(c):
		f.setField()
	case c == ':':
		f.state = (*firefox).beginOfValue
	default:
		f.name = append(f.name, c)
	}
	return nil
}

func (f *firefox) beginOfValue(c byte) []message {
	f.state = (*firefox).fieldValue
	if c == ' ' {
		return nil
	}
	return f.fieldValue(c)
}

func (f *firefox) fieldValue(c byte) []message {
	switch {
	case f.endsLine(c):
		f.setField()
	case c != 0:
		f.value = append(f.value, c)
	case string(f.name) == "id":
		f.name, f.value = nil, nil
		f.state = (*firefox).restOfLine
	}
	return nil
}

// EventSourceImpl::SetFieldAndClear. No time to reconnect is below half a second.
func (f *firefox) setField() {
	switch string(f.name) {
	case "data":
		f.data = append(append(f.data, f.value...), '\n')
	case "event":
		f.kind = string(f.value)
	case "id":
		f.id, f.hasID = string(f.value), true
	case "retry":
		if ms, err := strconv.ParseUint(string(f.value), 10, 32); err == nil {
			f.retry = max(time.Duration(ms)*time.Millisecond, 500*time.Millisecond)
		}
	}
	f.name, f.value = nil, nil
}

// EventSourceImpl::DispatchCurrentMessageEvent, and DispatchAllMessageEvents, which
// stores the id: that of a block without data is forgotten.
func (f *firefox) dispatch() (messages []message) {
	if len(f.data) > 0 {
		if f.hasID {
			f.lastEventID = f.id
		}
		messages = []message{{kindOf(f.kind), string(f.data[:len(f.data)-1]), f.lastEventID}}
	}
	f.clear()
	return messages
}

// EventSourceImpl::OnStopRequest reconnects after a clean end as after an error, and
// ReestablishConnection drops what was received of an event.
func (f *firefox) end(bool) {
	f.clear()
	f.state = (*firefox).beginOfLine
}

// EventSourceImpl::ClearFields.
func (f *firefox) clear() {
	f.name, f.value, f.data, f.kind, f.id, f.hasID = nil, nil, nil, "", "", false
}

func (f *firefox) reconnectsAfter() time.Duration { return f.retry }
