package integration

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// faults are what a backend may do instead of answering with one JSON document. Where
// an answer holds a document, it is doc. What is good is not told here, but by judge.
func faults(doc string) map[string]answer {
	text := func(s string) answer { return plain(s) }
	length := "Content-Length: " + strconv.Itoa(len(doc))
	early := "HTTP/1.1 103 Early Hints\r\nLink: </x>; rel=preload\r\nSet-Cookie: early=1\r\nContent-Length: 3\r\n\r\n"
	zip := gzipped(doc)
	levels := func(n int) string { return strings.Repeat("[", n-1) + doc + strings.Repeat("]", n-1) }
	sized := func(n int) string { return `"` + strings.Repeat("x", n-len(doc)-5) + `",` + doc }
	all := map[string]answer{
		// Bodies that are no document, and some that are.
		"html":               text("<!doctype html><title>busy</title>"),
		"empty":              text(""),
		"white space":        text(" \r\n\t"),
		"two documents":      text(doc + doc),
		"BOM":                text("\ufeff" + doc),
		"UTF-16":             text("\xff\xfe" + strings.Join(strings.Split(doc, ""), "\x00") + "\x00"),
		"not UTF-8":          text(`{"n":"` + "\xff" + `"}`),
		"NUL in a string":    text(`{"n":"` + "\x00" + `"}`),
		"NUL after it":       text(doc + "\x00"),
		"escaped NUL":        text(`{"n\u0000":` + doc + `}`),
		"lone surrogate":     text(`{"\ud800":` + doc + `}`),
		"repeated names":     text(`{"a":1,"a":` + doc + `}`),
		"JSON with a prefix": text(")]}',\n" + doc),
		"cut number":         text(`{"n":1.}`),
		"NaN":                text(`{"n":NaN}`),
		"1,000 levels":       text(levels(maxDepth)),
		"1,001 levels":       text(levels(maxDepth + 1)),
		"10,000 levels":      text(levels(10_000)),
		"as large as may be": text("[" + sized(maxBody-1) + "]"),
		"one byte more":      text("[" + sized(maxBody) + "]"),
		"one huge string":    text(strconv.Quote(strings.Repeat("x", maxBody-2-len(doc)) + strings.ReplaceAll(doc, `"`, "'"))),
		"20 MB":              text(`"` + strings.Repeat("x", 20<<20) + `"`),
		"20 MB of blanks":    text(doc + strings.Repeat(" ", 20<<20)),
		"endless":            {wire: raw("").wire + `[`, more: strings.Repeat("1,", 1<<15)},
		"endless blanks":     {wire: raw("").wire + doc, more: strings.Repeat(" ", 1<<16)},
		"endless chunks":     {wire: raw("", "Transfer-Encoding: chunked").wire + chunks(doc, 99), more: chunks(strings.Repeat(" ", 1<<12), 1<<12)},
		"event stream":       raw("data: "+doc+"\n\n", "Content-Type: text/event-stream", "Transfer-Encoding: chunked"),
		"JSON as a stream":   {wire: strings.Replace(plain(doc).wire, "application/json", "text/event-stream; charset=utf-8", 1)},

		// Framing (RFC 9112 §6): what is too long leaves something behind that is no answer.
		"length too small":            raw(doc, "Content-Length: "+strconv.Itoa(len(doc)-1)),
		"length too large":            raw(doc, "Content-Length: 1000"),
		"length too large, closed":    raw(doc, "Content-Length: 1000").closed(),
		"length of blanks, closed":    raw(doc+"  ", "Content-Length: "+strconv.Itoa(len(doc)+3)).closed(),
		"length and more":             {wire: plain(doc).wire + " " + doc},
		"another answer behind":       {wire: plain(doc).wire + plain(`{"n":"smuggled"}`).wire},
		"length that is negative":     raw(doc, "Content-Length: -1").closed(),
		"length with a sign":          raw(doc, "Content-Length: +"+strconv.Itoa(len(doc))).closed(),
		"length in hexadecimal":       raw(doc, "Content-Length: 0x10").closed(),
		"length that is empty":        raw(doc, "Content-Length:").closed(),
		"length that overflows":       raw(doc, "Content-Length: 18446744073709551626").closed(),
		"length twice":                raw(doc, length, length),
		"two lengths":                 raw(doc, length, "Content-Length: 3"),
		"two lengths, small first":    raw(doc, "Content-Length: 3", length),
		"list of lengths":             raw(doc, length+", "+strconv.Itoa(len(doc))),
		"length and chunks":           raw(chunks(doc, 4)+"0\r\n\r\n", length, "Transfer-Encoding: chunked"),
		"length, chunks that are not": raw(doc, length, "Transfer-Encoding: chunked"),
		"chunked twice":               raw(chunks(doc, 4)+"0\r\n\r\n", "Transfer-Encoding: chunked, chunked"),
		"chunked, not last":           raw(chunks(doc, 4)+"0\r\n\r\n", "Transfer-Encoding: chunked, identity").closed(),
		"xchunked":                    raw(chunks(doc, 4)+"0\r\n\r\n", "Transfer-Encoding: xchunked").closed(),
		"unknown coding and length":   raw(doc, length, "Transfer-Encoding: x"),
		"chunks in HTTP/1.0":          {wire: "HTTP/1.0" + chunked(doc, 4).wire[8:], end: finish},
		"chunks in parts":             chunked(doc, 1),
		"trailer":                     chunked(doc, 5, "Content-Length: 3", "Content-Encoding: x", "Set-Cookie: trailer=1", `ETag: "t"`),
		"trailer that was announced":  raw(chunks(doc, 5)+"0\r\nX: 1\r\n\r\n", "Transfer-Encoding: chunked", "Trailer: X"),
		"trailer that never ends":     {wire: raw(chunks(doc, 9)+"0\r\n", "Transfer-Encoding: chunked").wire, more: "X: 1\r\n"},
		"chunk extension":             raw(strings.Replace(chunks(doc, 99), "\r\n", ";a=b;c=\"d\"\r\n", 1)+"0;e\r\n\r\n", "Transfer-Encoding: chunked"),
		"Until the end":               untilClose(doc),
		"HTTP/1.0":                    {wire: "HTTP/1.0" + untilClose(doc).wire[8:], end: finish},
		"HTTP/1.0 with length":        {wire: "HTTP/1.0" + plain(doc).wire[8:], end: finish},
		"HTTP/0.9":                    {wire: doc, end: finish},
		"another protocol":            {wire: "SSH-2.0-OpenSSH_9.9\r\n", end: finish},
		"not closed":                  raw(doc),

		// Headers.
		"endless header":         {wire: okay, more: "X: " + strings.Repeat("x", 1<<16) + "\r\n"},
		"endless header line":    {wire: okay + "X: ", more: strings.Repeat("x", 1<<16)},
		"header of 256 KB":       plain(doc, "X: "+strings.Repeat("x", 1<<18)),
		"header with a NUL":      plain(doc, "X: \x00"),
		"folded header":          plain(doc, "X: a\r\n b"),
		"line without colon":     plain(doc, "X"),
		"blank before the colon": plain(doc, "X : 1"),
		"early hints":            {wire: early + plain(doc).wire},
		"much early":             {wire: strings.Repeat("HTTP/1.1 100 Continue\r\n\r\n"+early, 500) + plain(doc).wire},
		"endlessly early":        {more: early},
		"early, then nothing":    {wire: early, end: stall},
		"early, then RST":        {wire: early, end: reset},
		"another protocol, 101":  status("101 Switching Protocols", "Connection: Upgrade", "Upgrade: websocket"),

		// Codings.
		"identity":           plain(doc, "Content-Encoding: identity"),
		"Identity":           plain(doc, "Content-Encoding: Identity"),
		"br":                 plain(doc, "Content-Encoding: br"),
		"gzip":               zipped(doc),
		"gzip, chunked":      chunked(zip, 7),
		"gzip of two parts":  plain(gzipped(doc[:5])+gzipped(doc[5:]), "Content-Encoding: gzip"),
		"gzip that is none":  plain(doc, "Content-Encoding: gzip"),
		"gzip unsaid":        plain(zip),
		"gzip cut":           plain(zip[:len(zip)-9], "Content-Encoding: gzip"),
		"gzip without a CRC": plain(zip[:len(zip)-8], "Content-Encoding: gzip"),
		"gzip, wrong CRC":    plain(zip[:len(zip)-8]+"\x00\x00\x00\x00"+zip[len(zip)-4:], "Content-Encoding: gzip"),
		"gzip, wrong length": plain(zip[:len(zip)-1]+"\x01", "Content-Encoding: gzip"),
		"gzip, then garbage": plain(zip+"garbage", "Content-Encoding: gzip"),
		"gzip twice":         plain(gzipped(zip), "Content-Encoding: gzip, gzip"),
		"gzip bomb":          {wire: raw("", "Content-Encoding: gzip").wire + bomb(doc), end: finish},

		// Time.
		"late":      {wire: plain(doc).wire, after: pollTimeout / 5},
		"too late":  {wire: plain(doc).wire, after: pollTimeout * 10},
		"slow drip": {wire: plain(doc).wire, pace: 50 * time.Millisecond},
	}
	all["gzip, chunked"] = raw(chunks(zip, 7)+"0\r\n\r\n", "Content-Encoding: gzip", "Transfer-Encoding: chunked")
	all["event stream"] = answer{wire: "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n", more: "data: 1\n\n"}
	for _, line := range []string{
		"500 Internal Server Error", "502 Bad Gateway", "503 Service Unavailable", "404 Not Found", "429 Too Many Requests", "408 Request Timeout",
		"204 No Content", "205 Reset Content", "304 Not Modified", "599 Why not",
	} {
		all[line] = status(line)
	}
	for _, code := range []string{"000", "001", "042", "099", "600", "999", "201", "203", "206", "2000", "20", "-20", "2OO"} {
		all["document with status "+code] = answer{wire: strings.Replace(plain(doc).wire, "200 OK", code+" x", 1), end: finish}
	}
	for _, code := range []string{"300", "301", "302", "303", "305", "307", "308"} {
		all["redirect "+code] = status(code+" Elsewhere", "Location: /api/only-where-a-redirect-leads")
		all["redirect "+code+" without a place"] = status(code + " Elsewhere")
	}
	all["redirect to itself"] = status("302 Found", "Location: ?")
	for _, size := range []string{"", "-5", "+5", "0x5", "g", "ffffffffffffffffff", "8000000000000000", "5 5", "\x00", "5\n"} {
		all[fmt.Sprintf("chunk size %q", size)] = raw(size+"\r\n"+doc+"\r\n0\r\n\r\n", "Transfer-Encoding: chunked").closed()
	}
	for _, d := range []int{-1, 1, 2, 3, 100} {
		wire := fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", len(doc)+d, doc)
		all[fmt.Sprintf("chunk size that is off by %d", d)] = raw(wire, "Transfer-Encoding: chunked").closed()
	}
	for name, a := range map[string]answer{"length": plain(doc), "chunked": chunked(doc, 8), "until close": untilClose(doc), "gzip": zipped(doc)} {
		header := strings.Index(a.wire, "\r\n\r\n") + 4
		for _, k := range []int{0, 1, 12, header - 1, header, header + 1, len(a.wire) - 1} {
			all[fmt.Sprintf("%s, stalled at byte %d", name, k)] = a.cut(k, stall)
		}
	}
	return all
}

// bomb is what becomes doc with 1 GiB of blanks, as long as one reads, in gzip.
func bomb(doc string) string {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	blanks := bytes.Repeat([]byte(" "), 1<<20)
	io.WriteString(w, doc)
	for range 2 {
		w.Write(blanks)
		w.Flush()
	}
	once := b.Len()
	w.Write(blanks)
	w.Flush()
	return b.String()[:once] + strings.Repeat(b.String()[once:], 1021)
}

// What is no good document keeps the last good one, for those who are there and those
// who come, is logged once, and is over with the next good answer.
func TestFaultyUpstream(t *testing.T) {
	b := newBackend(t)
	answers := faults(`{"n":"during"}`)
	names := slices.Sorted(maps.Keys(answers))
	resources := make([]*scripted, len(names))
	outcomes := make([]outcome, len(names))
	for i, name := range names {
		_, outcomes[i] = answers[name].judge(false)
		path := "/api/%d"
		if outcomes[i] == unusable {
			path = "/api/hurry/%d"
		}
		resources[i] = b.resource(fmt.Sprintf(path, i), nil)
	}
	options := fmt.Sprintf("interval %v\nmax_body %d\nlinger 1ms\n", interval, maxBody)
	c := start(t, fmt.Sprintf("poll_sse /api/hurry/* {\n%stimeout %v\n}\n", options, pollTimeout)+b.site(options, true))
	var all sync.WaitGroup
	slots := make(chan struct{}, 48)
	for i, name := range names {
		slots <- struct{}{}
		all.Go(func() {
			defer func() { <-slots }()
			if err := c.undergo(protocols[i%2], resources[i], answers[name]); err != nil {
				t.Errorf("%s (%s): %v", name, resources[i].path, err)
			}
		})
	}
	all.Wait()
	time.Sleep(50 * time.Millisecond) // a line comes after the document
	for i, r := range resources {
		// A machine that is busy makes good polls time out too.
		stale, live, late, err := c.transitions(r)
		if err != nil || outcomes[i] == unusable && (stale < 1 || stale-late > 1) || outcomes[i] == usable && stale != 0 {
			t.Errorf("%s: %d lines say stale, %d because of a timeout, %d live (%v)", names[i], stale, late, live, err)
		}
	}
	if len(names) < 150 {
		t.Errorf("only %d faults", len(names))
	}
	if strings.Contains(c.log.String(), `\"n\":`) {
		t.Error("documents are in the log")
	}
}

// undergo lets a resource's upstream fail in one way and recover.
func (c *caddy) undergo(protocol string, r *scripted, fault answer) error {
	const before, after = `{"n":"before"}`, `{"n":"after"}`
	r.set(plain(before))
	f, err := c.follow(protocol, r)
	if err != nil {
		return err
	}
	defer f.leave()
	if err := f.sees(before); err != nil {
		return err
	}
	document, o := fault.judge(false)
	polls := r.count()
	r.set(fault)
	err = within("it is polled again", func() (bool, error) { return r.count() >= polls+2, nil })
	if err == nil && o == usable {
		err = f.sees(document)
	}
	if err == nil {
		err = c.visit(protocol, r, f)
	}
	r.set(plain(after))
	return errors.Join(err, f.sees(after), r.stormed(), f.leave())
}

// visit connects anew, and is sent what f has at least.
func (c *caddy) visit(protocol string, r *scripted, f *witness) error {
	least, err := f.state()
	if err != nil {
		return err
	}
	v, err := c.follow(protocol, r)
	if err != nil {
		return err
	}
	err = within("a new client is sent a document", func() (bool, error) {
		order, err := v.state()
		return order > 0, err
	})
	if order, _ := v.state(); err == nil && order < least {
		err = fmt.Errorf("a new client is sent the document of answer %d, others have that of %d", order, least)
	}
	return errors.Join(err, v.leave())
}

func TestWithdrawnDocument(t *testing.T) {
	for _, status := range []int{401, 403, 410} {
		t.Run(fmt.Sprint(status), func(t *testing.T) {
			u := newUpstream(t, numbered(0))
			c := start(t, u.site("interval 20ms"))
			s := c.open("h1", "/api/x", "")
			id := c.next(s).ID
			u.setAnswer(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("X-Genuine", "1")
				w.WriteHeader(status)
			})
			if _, err := c.tryNext(s); err != io.EOF {
				t.Errorf("the stream ended with %v", err)
			}
			back, err := c.connect("h1", "/api/x", id)
			if err != nil {
				t.Fatal(err)
			}
			defer back.close()
			if back.response.StatusCode != status || back.response.Header.Get("X-Genuine") != "1" {
				t.Errorf("a returning client is sent %s", back.response.Status)
			}
			u.set(numbered(1)) // and it may come back
			again := c.open("h1", "/api/x", id)
			if e := c.next(again); numberIn(apply(t, nil, e.Data)) != 1 {
				t.Errorf("event %.100s", e.Data)
			}
		})
	}
}
