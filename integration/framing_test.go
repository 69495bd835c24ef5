package integration

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/json"
	"io"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/pollsse/caddy-poll-sse/internal/oracle"
)

// outcome is what may become of a poll that is answered so. Tests judge by the words of
// RFC 9112, and share no code with what reads the answers in earnest.
type outcome int

const (
	unusable  outcome = iota // no client may ever see it
	doubtful                 // the RFC leaves that to the recipient, or the kernel does
	unchanged                // a 304: what is held stays
	usable                   // clients are to see the document
)

const (
	interval    = 20 * time.Millisecond
	pollTimeout = time.Second
	maxBody     = 256 << 10
	maxDepth    = 1000
)

var (
	statusLine = regexp.MustCompile(`^HTTP/1\.[01] ([1-5][0-9][0-9]) [^\x00-\x08\x0a-\x1f\x7f]*$`) // RFC 9112 §4
	fieldName  = regexp.MustCompile("^[!#$%&'*+.^_`|~0-9A-Za-z-]+$")                               // RFC 9110 §5.6.2
	chunkLine  = regexp.MustCompile(`^([0-9A-Fa-f]{1,15})[ \t]*(;[\t -~]*)?$`)                     // RFC 9112 §7.1
	digits     = regexp.MustCompile(`^[0-9]{1,15}$`)
)

// judge says what an answer is good for, and returns the document it holds, if any.
func (a answer) judge(conditional bool) (document string, o outcome) {
	status, header, rest := a.head()
	switch {
	case status == 304 && conditional:
		return "", unchanged
	case status != 200 || strings.HasPrefix(header.get("content-type"), "text/event-stream"):
		return "", unusable
	}
	body, o := a.body(header, rest)
	if header["lax"] != nil {
		o = min(o, doubtful)
	}
	if o == unusable {
		return "", unusable
	}
	switch coding := header.get("content-encoding"); {
	case coding == "gzip": // polls ask for it, in the name of Caddy's HTTP client
		body = gunzipped(body)
	case coding != "" && !strings.EqualFold(coding, "identity"): // RFC 9110 §8.4.1
		return "", unusable
	}
	if !isDocument(body) {
		return "", unusable
	}
	if took := time.Duration(len(a.wire))*a.pace + a.after; took > pollTimeout {
		return "", unusable
	} else if took > pollTimeout/4 || a.end == reset { // which may overtake what was sent (RFC 9112 §9.6)
		o = doubtful
	}
	return body, o
}

// fields are the lines of a header, by name in lower case.
type fields map[string][]string

func (f fields) get(name string) string { return strings.Join(f[name], ", ") }

// head reads the header of the final response (RFC 9110 §15.2), with status 0 where
// there is none.
func (a answer) head() (status int, header fields, rest string) {
	for rest = a.wire; ; {
		head, after, complete := strings.Cut(rest, "\r\n\r\n")
		lines := strings.Split(head, "\r\n")
		match := statusLine.FindStringSubmatch(lines[0])
		if !complete || match == nil {
			return 0, nil, ""
		}
		header = make(fields)
		for _, line := range lines[1:] {
			name, value, ok := field(strings.TrimLeft(line, " \t"))
			if lax := strings.TrimRight(name, " \t"); lax != name || line[0] == ' ' { // which proxies may read (RFC 9112 §5.1)
				header["lax"], name = []string{line}, lax
			}
			if !ok && line[0] != ' ' { // folded (§5.2)
				return 0, nil, ""
			}
			header[name] = append(header[name], value)
		}
		status, _ = strconv.Atoi(match[1])
		if rest = after; status > 199 || status == 101 {
			return status, header, rest
		}
	}
}

// field reads one line of a header (RFC 9110 §5.5).
func field(line string) (name, value string, ok bool) {
	name, value, ok = strings.Cut(line, ":")
	control := func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }
	return strings.ToLower(name), strings.Trim(value, " \t"), ok && fieldName.MatchString(strings.TrimRight(name, " \t")) && strings.IndexFunc(value, control) < 0
}

// body frames the body of a 200 (RFC 9112 §6.3) and tells whether it is complete (§8).
func (a answer) body(header fields, rest string) (string, outcome) {
	lengths, codings := header["content-length"], header["transfer-encoding"]
	switch {
	case len(codings) > 0 && (len(codings) > 1 || !strings.EqualFold(codings[0], "chunked") || strings.HasPrefix(a.wire, "HTTP/1.0")):
		return "", unusable // §6.1: of HTTP/1.0 the framing is faulty
	case len(codings) > 0:
		body, o := unchunked(rest)
		if len(lengths) > 0 { // "ought to be handled as an error"
			o = min(o, doubtful)
		}
		return body, o
	case len(lengths) > 0:
		for _, l := range lengths {
			if !digits.MatchString(l) || l != lengths[0] {
				return "", unusable
			}
		}
		if n, _ := strconv.Atoi(lengths[0]); n > len(rest) {
			return "", unusable
		} else if len(lengths) > 1 { // "either reject the message or replace"
			return rest[:n], doubtful
		} else {
			return rest[:n], usable
		}
	case a.end == finish && a.more == "":
		return rest, usable
	}
	return "", unusable // a reset indicates an error, and else the end is still to come
}

// unchunked decodes a chunked body (RFC 9112 §7.1).
func unchunked(rest string) (body string, o outcome) {
	for {
		line, after, ok := strings.Cut(rest, "\r\n")
		match := chunkLine.FindStringSubmatch(line)
		if !ok || match == nil {
			return "", unusable
		}
		n, _ := strconv.ParseInt(match[1], 16, 64)
		if rest = after; n == 0 {
			break
		}
		if int64(len(rest)) < n+2 || rest[n:n+2] != "\r\n" {
			return "", unusable
		}
		body, rest = body+rest[:n], rest[n+2:]
	}
	for {
		line, after, ok := strings.Cut(rest, "\r\n")
		switch {
		case !ok: // §8: the zero-sized chunk has come, the message has not ended
			return body, doubtful
		case line == "":
			return body, usable
		}
		if _, _, ok := field(line); !ok {
			return body, doubtful
		}
		rest = after
	}
}

// gunzipped returns "" for what is no gzip or no end (RFC 1952).
func gunzipped(body string) string {
	r, err := gzip.NewReader(strings.NewReader(body))
	if err != nil {
		return ""
	}
	text, err := io.ReadAll(io.LimitReader(r, maxBody+1))
	if err != nil {
		return ""
	}
	return string(text)
}

// isDocument reports whether text is one JSON text (RFC 8259) of no more than we allow.
func isDocument(text string) bool {
	if len(text) > maxBody || !utf8.ValidString(text) || !json.Valid([]byte(text)) {
		return false
	}
	depth, inString := 0, false
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case inString && c == '\\':
			i++
		case c == '"':
			inString = !inString
		case inString:
		case c == '[' || c == '{':
			if depth++; depth > maxDepth {
				return false
			}
		case c == ']' || c == '}':
			depth--
		}
	}
	return true
}

// digest tells values apart, however they are written.
type digest [sha256.Size]byte

// digestOf returns the digest of the value of a document.
func digestOf(document string) digest {
	v, err := oracle.Value([]byte(document))
	if err != nil {
		panic(err)
	}
	return canonical(v)
}

// Answers are spelled by these. All try to give clients a cookie.

const okay = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nSet-Cookie: upstream=1\r\n"

// plain is an answer with a Content-Length.
func plain(document string, lines ...string) answer {
	return answer{wire: okay + joined(lines) + "Content-Length: " + strconv.Itoa(len(document)) + "\r\n\r\n" + document}
}

// raw is an answer whose framing the lines tell, or the end does.
func raw(body string, lines ...string) answer {
	return answer{wire: okay + joined(lines) + "\r\n" + body}
}

// untilClose is an answer that ends with the connection.
func untilClose(document string) answer {
	return answer{wire: okay + "\r\n" + document, end: finish}
}

// chunked is an answer of chunks that are no longer than size.
func chunked(document string, size int, trailer ...string) answer {
	return raw(chunks(document, size)+"0\r\n"+joined(trailer)+"\r\n", "Transfer-Encoding: chunked")
}

func chunks(document string, size int) (text string) {
	for len(document) > 0 {
		n := min(size, len(document))
		text += strconv.FormatInt(int64(n), 16) + "\r\n" + document[:n] + "\r\n"
		document = document[n:]
	}
	return text
}

// zipped is an answer in gzip.
func zipped(document string) answer {
	return plain(gzipped(document), "Content-Encoding: gzip")
}

func gzipped(text string) string {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	io.WriteString(w, text)
	w.Close()
	return b.String()
}

// status is an answer that is no 200.
func status(code string, lines ...string) answer {
	return answer{wire: "HTTP/1.1 " + code + "\r\nSet-Cookie: upstream=1\r\n" + joined(lines) + "Content-Length: 0\r\n\r\n"}
}

func joined(lines []string) string {
	text := ""
	for _, l := range lines {
		text += l + "\r\n"
	}
	return text
}

// The judge itself is held to examples that one can decide by eye.
func TestJudge(t *testing.T) {
	const doc = `{"n":1}`
	length := plain(doc)
	chunky := chunked(doc, 3)
	for name, c := range map[string]struct {
		answer
		want outcome
	}{
		"length":                            {length, usable},
		"length, last byte missing":         {length.cut(len(length.wire)-1, finish), unusable},
		"length, then FIN":                  {length.cut(len(length.wire), finish), usable},
		"length, then RST":                  {length.cut(len(length.wire), reset), doubtful},
		"chunked":                           {chunky, usable},
		"chunked, last LF missing":          {chunky.cut(len(chunky.wire)-1, finish), doubtful},
		"chunked, half of last chunk":       {chunky.cut(len(chunky.wire)-3, finish), unusable},
		"chunked, no last chunk":            {chunky.cut(len(chunky.wire)-5, finish), unusable},
		"until close":                       {untilClose(doc), usable},
		"until close, cut":                  {untilClose(doc[:6]), unusable},
		"until close, cut to another value": {untilClose("12345"[:3]), usable}, // nobody can tell
		"until RST":                         {untilClose(doc).cut(len(untilClose(doc).wire), reset), unusable},
		"never closed":                      {raw(doc), unusable},
		"gzip":                              {zipped(doc), usable},
		"304 unasked":                       {status("304 Not Modified"), unusable},
		"early hints":                       {answer{wire: "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + length.wire}, usable},
	} {
		if _, got := c.judge(false); got != c.want {
			t.Errorf("%s: %d, want %d", name, got, c.want)
		}
	}
}
