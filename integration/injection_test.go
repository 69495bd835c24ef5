package integration

import (
	"bytes"
	"fmt"
	"io"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/pollsse/caddy-poll-sse/internal/sse"
)

// hostileTexts are strings, as JSON, that have, in some way, what ends lines and events.
var hostileTexts = []string{
	`"data: x\n\nid: evil\n\ndata: y\n\n"`, `"\r\n\r\nevent: evil\r\ndata: 1\r\n\r\n"`, `"\u000d\u000a\u000devent: evil"`, `"\u000a\u000a"`,
	`"\r"`, `"\n"`, `"\u0000"`, `"a\u0000b"`, `"id: \u0000"`, "\"\u2028\u2029\u0085\"", `"\u2028\u2029\u0085\u000b\u000c"`,
	"\"\ufeff\"", "\"\ufeffdata: evil\"", `"\ufeff"`, `":"`, `": comment"`, `"retry: 1"`, `"\\n\\ndata: x"`, `"\\\\u000a"`, `"</script>\u003c!--"`, "\"\x7f\"",
}

// hostileDocuments are documents with such texts as values and as names of members.
func hostileDocuments() (documents []string) {
	for i, text := range hostileTexts {
		documents = append(documents,
			fmt.Sprintf(`{"n":%d,"value":%s,"filler":%q}`, i, text, filler),
			fmt.Sprintf(`{"n":%d,"value":{%s:{%s:[%s]}},"filler":%q}`, i, text, text, text, filler),
			fmt.Sprintf(`{"n":%d,"value":{%s:{%s:[%s,1]}},"filler":%q}`, i, text, text, text, filler), // a patch has the names in a path
		)
	}
	return documents
}

// brokenDocuments have the same as they are, which is no JSON.
var brokenDocuments = []string{
	"{\"a\":\"\n\ndata: evil\n\n\"}", "{\"a\":\"\r\"}", "{\"a\":\"\x00\"}", "{\"\n\":1}", "{\"a\":1}\x00", "{\"a\":1}\n\ndata: 1", "\"\x1f\"", "data: {}\n\n", "{\"a\":\x0b1}", "{\"a\":\u2028 1}", "\"\xe2\x80\"",
}

// Whatever a document has in it, a client dispatches one event for each version, and
// then has that document, whether it reads as this project promises or as browsers do.
func TestHostileDocuments(t *testing.T) {
	u := newUpstream(t, "")
	c := start(t, u.site("interval 10ms\nevent \"data: x\""))
	for _, format := range []string{"patch", "merge", "full"} {
		for i, protocol := range protocols {
			t.Run(format+" over "+protocol, func(t *testing.T) {
				documents := hostileDocuments()
				u.set(documents[0])
				s := c.open(protocol, "/api/"+format+protocol+"?sse_format="+format, "", "Accept-Encoding", []string{"gzip", "identity"}[i%2])
				defer s.close()
				var wire bytes.Buffer
				s.Reader = sse.NewReader(io.TeeReader(decoded(s.response, s.response.Body), &wire))
				var doc any
				var events []sse.Event
				for _, document := range documents {
					u.set(document)
					e := c.next(s)
					e.Size = 0
					events = append(events, e)
					doc = applyFormat(t, doc, e)
					if !reflect.DeepEqual(doc, value(t, document)) {
						t.Fatalf("after %s\nthe client has %v, not %s", e.Data, doc, document)
					}
				}
				if got := dispatched(wire.String()); !reflect.DeepEqual(got, events) {
					t.Errorf("a browser dispatches %d events, not %d: %.2000s", len(got), len(events), fmt.Sprintf("%+v", got))
				}
			})
		}
	}
}

// applyFormat brings doc forward by an event of any format.
func applyFormat(t *testing.T, doc any, e sse.Event) any {
	t.Helper()
	switch {
	case strings.HasPrefix(e.Data, "["):
		return apply(t, doc, e.Data)
	case e.Type == "snapshot" || strings.HasPrefix(e.Data, `{"n":`) && strings.Contains(e.Data, `"filler"`):
		return value(t, e.Data)
	}
	return merge(doc, value(t, e.Data))
}

// merge is the function of RFC 7396 §2.
func merge(target, patch any) any {
	changes, ok := patch.(map[string]any)
	if !ok {
		return patch
	}
	merged := map[string]any{}
	if old, ok := target.(map[string]any); ok {
		for name, v := range old {
			merged[name] = v
		}
	}
	for name, v := range changes {
		if v == nil {
			delete(merged, name)
		} else {
			merged[name] = merge(merged[name], v)
		}
	}
	return merged
}

// dispatched returns the events that a browser dispatches of a stream (WHATWG HTML
// §9.2.6), knowing nothing of what this project promises.
func dispatched(stream string) (events []sse.Event) {
	stream = strings.TrimPrefix(stream, "\ufeff")
	stream = strings.ReplaceAll(strings.ReplaceAll(stream, "\r\n", "\n"), "\r", "\n")
	lines := strings.Split(stream, "\n")
	var data strings.Builder
	var kind, lastID string
	for _, line := range lines[:len(lines)-1] { // the last one is not complete
		field, value, _ := strings.Cut(line, ":")
		value = strings.TrimPrefix(value, " ")
		switch {
		case line == "":
			if data.Len() > 0 {
				events = append(events, sse.Event{ID: lastID, Type: kind, Data: strings.TrimSuffix(data.String(), "\n")})
			}
			data.Reset()
			kind = ""
		case field == "data":
			data.WriteString(value + "\n")
		case field == "event":
			kind = value
		case field == "id" && !strings.Contains(value, "\x00"):
			lastID = value
		}
	}
	return events
}

// What has line ends or NUL as they are in a string is not JSON, and not sent.
func TestBrokenDocumentsAreNotSent(t *testing.T) {
	u := newUpstream(t, numbered(0))
	c := start(t, u.site("interval 1ms"))
	s := c.open("h1", "/api/x", "")
	doc := apply(t, nil, c.next(s).Data)
	for i, broken := range brokenDocuments {
		u.set(broken)
		c.eventually("it is polled", func() bool { return strings.Count(c.log.String(), "upstream is stale") == i+1 })
		u.set(numbered(i + 1))
		if doc = apply(t, doc, c.next(s).Data); numberIn(doc) != i+1 {
			t.Errorf("after %q the client has %v", broken, doc)
		}
		c.eventually("it is noticed", func() bool { return strings.Count(c.log.String(), "upstream is live again") == i+1 })
	}
	if strings.Contains(c.log.String(), "evil") {
		t.Error("documents are in the log")
	}
}

// A configured event type cannot end its line either.
func TestHostileEventTypes(t *testing.T) {
	u := newUpstream(t, numbered(0))
	c := start(t, u.site("interval 10ms"))
	for _, name := range []string{"a\nb", "a\r\ndata: evil", "a\rb", "\n", "a\x00b", " a", "a ", "message", "error", "open"} {
		if err := c.reload(u.site("event `" + name + "`")); err == nil {
			t.Errorf("event %q is accepted", name)
		}
	}
	for _, name := range []string{"data: x", "a:b", "a\u2028b", "\u0085x", ":"} {
		err := c.reload(u.site("event `" + name + "`"))
		if strings.TrimSpace(name) != name { // is refused
			continue
		}
		if err != nil {
			t.Errorf("event %q: %v", name, err)
			continue
		}
		c.eventually("the new configuration serves", func() bool {
			s, err := c.connect("h1", "/api/x?"+fmt.Sprint(time.Now().UnixNano()), "")
			if err != nil {
				return false
			}
			defer s.close()
			e, err := c.tryNext(s)
			return err == nil && e.Type == name
		})
	}
}
