package pollsse

import (
	"encoding/base64"
	"encoding/binary"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/cespare/xxhash/v2"
)

// eventID names a version of a document and its place in an event log.
type eventID struct {
	epoch  uint64 // one life of one log
	seq    uint64 // counts the log's versions, from 0
	digest uint64 // of the document, see digestOf
}

// digestOf is the same in every process, so that another life of a log, or
// another node, recognises a client that has this very document.
func digestOf(document []byte) uint64 { return xxhash.Sum64(document) }

// wordLen is the length of 64 bits in base64url.
const wordLen = 11

// String returns the id as clients see it: epoch, sequence number and digest.
func (id eventID) String() string {
	text := make([]byte, 0, 2*wordLen+16)
	text = appendWord(text, id.epoch)
	text = append(text, '-')
	text = strconv.AppendUint(text, id.seq, 36)
	text = append(text, '-')
	text = appendWord(text, id.digest)
	return string(text)
}

func appendWord(text []byte, n uint64) []byte {
	return base64.RawURLEncoding.AppendEncode(text, binary.BigEndian.AppendUint64(nil, n))
}

// parseEventID is the inverse of [eventID.String]; ok is false for anything that
// no eventID is spelled like.
func parseEventID(text string) (id eventID, ok bool) {
	const longest = wordLen + len("-3w5e11264sgsf-") + wordLen
	if len(text) < wordLen+len("-0-")+wordLen || len(text) > longest {
		return eventID{}, false
	}
	seq := text[wordLen+1 : len(text)-wordLen-1]
	var err error
	if id.seq, err = strconv.ParseUint(seq, 36, 64); err != nil {
		return eventID{}, false
	}
	id.epoch = readWord(text[:wordLen])
	id.digest = readWord(text[len(text)-wordLen:])
	if id.String() != text { // one spelling only, and all characters checked
		return eventID{}, false
	}
	return id, true
}

func readWord(text string) uint64 {
	var bits [8]byte
	if n, err := base64.RawURLEncoding.Decode(bits[:], []byte(text)); err != nil || n != len(bits) {
		return 0
	}
	return binary.BigEndian.Uint64(bits[:])
}

// maxLine is the longest line written, in bytes: WebKit slows down quadratically on
// longer ones and aiohttp refuses them.
const maxLine = 64 << 10

// appendEvent appends one event to b: compact JSON as data, the event type where
// it is not empty, and the id. Data comes first and the id last, because many
// clients store the id when they read its line, not when they dispatch the event.
func appendEvent(b []byte, eventType string, data []byte, id eventID) []byte {
	b = appendData(b, eventType, data)
	b = append(b, "id: "...)
	b = append(b, id.String()...)
	return append(b, '\n', '\n')
}

// appendNotice appends an event without an id, which leaves the client's last event id
// as it is (WHATWG HTML §9.2.6).
func appendNotice(b []byte, eventType string, data []byte) []byte {
	return append(appendData(b, eventType, data), '\n')
}

func appendData(b []byte, eventType string, data []byte) []byte {
	for len(data) > 0 {
		n := lineLen(data)
		b = append(b, "data: "...)
		b = append(b, data[:n]...)
		b = append(b, '\n')
		data = data[n:]
	}
	if eventType != "" {
		b = append(b, "event: "...)
		b = append(b, eventType...)
		b = append(b, '\n')
	}
	return b
}

// lineLen returns how much of data, compact JSON cut before or between tokens,
// makes the next data line. Lines are joined by line feeds (WHATWG HTML §9.2.6),
// white space to JSON where it stands between tokens; so a long document is cut
// after a comma or an opening bracket, and a longer single string is not.
func lineLen(data []byte) int {
	const room = maxLine - len("data: \n")
	if len(data) <= room {
		return len(data)
	}
	cut, inString := 0, false
	for i := 0; i < len(data); i++ {
		if i >= room && cut > 0 {
			return cut
		}
		switch c := data[i]; {
		case inString && c == '\\':
			i++
		case c == '"':
			inString = !inString
		case !inString && (c == ',' || c == '[' || c == '{'):
			cut = i + 1
		}
	}
	return len(data)
}

// Event types that have a meaning of their own.
const (
	eventSnapshot = "snapshot" // a whole document among merge patches
	eventStatus   = "status"   // see [upstreamStatus]
	eventPing     = "ping"     // a heartbeat that clients see
)

// heartbeat is a comment. It is a single line without a blank one after it: a
// block without data reaches several clients as an empty event.
const heartbeat = ":\n"

// padding is a comment for clients that see nothing of a response before 2 KB of it
// have come.
var padding = ":" + strings.Repeat(" ", 2<<10) + "\n"

// appendPreamble appends what a stream begins with: a comment, so that the client
// sees its first byte, and the time after which it shall reconnect.
func appendPreamble(b []byte, retry time.Duration) []byte {
	b = append(b, heartbeat...)
	return appendRetry(b, retry)
}

func appendRetry(b []byte, retry time.Duration) []byte {
	b = append(b, "retry: "...)
	b = strconv.AppendInt(b, retry.Milliseconds(), 10)
	return append(b, '\n')
}

// appendResynchronisation appends the preamble for WebKit, which keeps a
// half-received event after a connection error and glues the next connection's
// bytes to it. The block ends that event under a type that nobody listens for, and
// restores the id that it may have spoiled: where there was none, an empty one, or a
// client cut before the end of its first event would come back for what follows it.
func appendResynchronisation(b []byte, lastEventID string, retry time.Duration) []byte {
	b = append(b, heartbeat...)
	if _, ok := parseEventID(lastEventID); ok || lastEventID == "" {
		b = append(b, "id: "...)
		b = append(b, lastEventID...)
		b = append(b, '\n')
	}
	b = append(b, "event: _\n\n"...)
	return appendRetry(b, retry)
}

// reservedEventTypes are the names that EventSource or this module give a meaning.
var reservedEventTypes = []string{"open", "error", "message", eventSnapshot, eventStatus, eventPing}

// validEventType reports whether name can be the type of an event: it has to fit
// on its line and keep out of the way of other types.
func validEventType(name string) bool {
	return name != "" && !slices.Contains(reservedEventTypes, name) &&
		!strings.ContainsAny(name, "\r\n\x00") && name == strings.TrimSpace(name)
}
