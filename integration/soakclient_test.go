package integration

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/pollsse/caddy-poll-sse/internal/oracle"
	"github.com/pollsse/caddy-poll-sse/internal/sse"
)

// soakClient follows a document, by streams or by long-polls, and behaves badly.
type soakClient struct {
	*soak
	number    int
	line      *line
	own       bool // the line
	path      string
	owner     string
	format    string
	encoding  string
	notices   bool
	roams     bool // from one query to another
	picks     bool // one item after another
	longPolls bool
	applies   bool // what it is sent; others just look at it

	// Of the goroutine that runs it.
	rand  *rand.Rand
	query string
	id    string
	doc   any

	mu       sync.Mutex // guards all below
	document *restlessDocument
	pointer  string // to what it selects
	at       int    // the version it has; 0 for none
	why      error  // it was refused last
}

// newClient returns the client of that number.
func (s *soak) newClient(seed uint64, number int) *soakClient {
	r := rand.New(rand.NewPCG(seed, uint64(number)+1))
	oneIn := func(n int) bool { return r.IntN(n) == 0 }
	c := &soakClient{soak: s, number: number, rand: r, format: "patch", notices: oneIn(10), longPolls: oneIn(10), applies: oneIn(4)}
	c.roams = oneIn(30)
	c.encoding = []string{"gzip", "identity"}[r.IntN(2)]
	c.owner = []string{"alice", "bob"}[number%2]
	c.path = fmt.Sprintf("/api/r%d", number%s.form.documents/2)
	if oneIn(3) && !c.longPolls {
		c.format = []string{"full", "merge"}[r.IntN(2)]
	}
	if oneIn(6) {
		c.pointer = "/part"
	} else {
		c.picks = oneIn(6)
	}
	c.forget()
	switch n := number % 20; { // streams on one line are far fewer than a server allows
	case n < 5:
		c.line, c.own = s.newLine("h1"), true
	case n < 8:
		c.line, c.own = s.newLine("h1+TLS"), true
	case n < 16:
		c.line = s.sharedLine("h2", number/20, max(s.form.clients/200, 2))
	default:
		c.line = s.sharedLine("h3", number/20, max(s.form.clients/400, 2))
	}
	return c
}

func (s *soak) sharedLine(protocol string, i, lines int) *line {
	for len(s.shared[protocol]) < lines {
		s.shared[protocol] = append(s.shared[protocol], s.newLine(protocol))
	}
	return s.shared[protocol][i%lines]
}

func (c *soakClient) String() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	what := "stream"
	if c.longPolls {
		what = "long-poll"
	}
	return fmt.Sprintf("client %d (%s of %s%s over %s, %s, %s) at version %d of %d of %q, refused last because of %v", c.number, what, c.format, c.pointer, c.line.protocol, c.encoding, c.id, c.at, c.document.newest(c.pointer), c.document.name, c.why)
}

// forget makes it a new client, perhaps of another document or item.
func (c *soakClient) forget() {
	if c.roams {
		c.query = strconv.Itoa(c.rand.IntN(1e6))
	}
	c.id, c.doc = "", nil
	document := c.documents.document(c.path, c.owner, c.query)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.document, c.at = document, 0
	if c.picks {
		c.pointer = itemPointer(c.rand.IntN(document.stable))
	}
}

func (c *soakClient) isUpToDate() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at == c.document.newest(c.pointer)
}

// run follows the document until ctx ends.
func (c *soakClient) run(ctx context.Context) error {
	sleep(ctx, time.Duration(c.rand.IntN(1000))*c.form.interval/100) // not all at once
	for ctx.Err() == nil {
		storm := c.currentStorm()
		if storm.Err() == nil && c.rand.IntN(5) == 0 {
			c.visit(ctx)
		}
		follow := c.stream
		if c.longPolls {
			follow = c.longPoll
		}
		ok, err := follow(ctx, storm)
		if err != nil {
			return err
		}
		if storm.Err() == nil && c.rand.IntN(5) == 0 {
			c.forget()
		}
		if !ok {
			sleep(storm, c.someTime())
		}
		sleep(ctx, c.form.interval)
	}
	return nil
}

// someTime draws a time, most often a short one.
func (c *soakClient) someTime() time.Duration {
	return time.Duration(c.rand.ExpFloat64() * float64(c.form.reloadEvery) / 8)
}

func sleep(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// url returns where the document is.
func (c *soakClient) url() string {
	u := c.line.base + c.path + "?sse_format=" + c.format
	if c.query != "" {
		u += "&q=" + c.query
	}
	if c.pointer != "" {
		u += "&sse_select=" + url.QueryEscape(c.pointer)
	}
	if c.notices {
		u += "&sse_status"
	}
	return u
}

// visit makes a request that passes through.
func (c *soakClient) visit(ctx context.Context) {
	method := []string{http.MethodGet, http.MethodPost}[c.rand.IntN(2)]
	if response, _, err := c.request(ctx, method, 1<<10); err == nil && response.StatusCode < 300 {
		c.visits.Add(1)
	}
}

// request makes a request without a stream, and reads no more of its answer than that.
func (c *soakClient) request(ctx context.Context, method string, limit int64, header ...string) (*http.Response, string, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var content io.Reader
	if method == http.MethodPost {
		content = strings.NewReader("change")
	}
	request, err := http.NewRequestWithContext(ctx, method, c.url(), content)
	if err != nil {
		return nil, "", err
	}
	request.Header.Set("X-Owner", c.owner)
	for i := 0; i < len(header); i += 2 {
		request.Header.Set(header[i], header[i+1])
	}
	response, err := c.line.client.Do(request)
	if err != nil {
		return nil, "", err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(io.LimitReader(response.Body, limit))
	return response, string(text), err
}

// longPoll waits for another version than the one it has.
func (c *soakClient) longPoll(ctx, storm context.Context) (ok bool, err error) {
	response, text, err := c.request(ctx, http.MethodGet, 1<<20, "Prefer", "wait=10", "If-None-Match", c.id)
	if err != nil || response.Header.Get("Preference-Applied") == "" {
		return c.isRefused(response, err), nil
	}
	c.answered.Add(1)
	if response.StatusCode == http.StatusNotModified {
		return true, nil
	}
	tag := response.Header.Get("ETag")
	return true, c.take(sse.Event{ID: tag, Data: text, Type: "snapshot"}, "full")
}

// stream follows a stream until one of both has enough.
func (c *soakClient) stream(ctx, storm context.Context) (ok bool, err error) {
	s, err := connectTo(c.line.client, c.url(), c.id, "X-Owner", c.owner, "Accept-Encoding", c.encoding)
	if err != nil {
		return c.isRefused(nil, err), nil
	}
	defer s.close()
	defer context.AfterFunc(ctx, s.cancel)()
	if s.response.StatusCode != http.StatusOK || !strings.HasPrefix(s.response.Header.Get("Content-Type"), "text/event-stream") {
		return c.isRefused(s.response, nil), nil
	}
	c.streams.Add(1)
	if c.id != "" {
		c.resumed.Add(1)
	}
	transfer := &transfer{Reader: s.response.Body}
	s.Reader = sse.NewReader(decoded(s.response, transfer))
	stall, end := c.intend(storm, s.cancel)
	defer end()
	for {
		e, err := s.Next()
		switch {
		case err == io.EOF && transfer.err == io.EOF:
			return true, nil
		case err != nil && (transfer.err != nil && transfer.err != io.EOF || s.response.Request.Context().Err() != nil):
			return false, nil // cut, or left
		case err != nil:
			return false, err
		case e.ID == "": // a notice
			continue
		}
		if err := c.take(e, c.format); err != nil {
			return false, err
		}
		c.events.Add(1)
		stall()
	}
}

func (c *soakClient) isRefused(response *http.Response, err error) (ok bool) {
	c.refused.Add(1)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.why = err; err == nil {
		c.why = errors.New(response.Status)
	}
	return false
}

// transfer notes how the transfer of a body ended, which may be in any way.
type transfer struct {
	io.Reader
	err error
}

func (t *transfer) Read(p []byte) (n int, err error) {
	n, err = t.Reader.Read(p)
	if t.err == nil {
		t.err = err
	}
	return n, err
}

// intend draws what the client does to a stream while there is a storm. It calls stall
// between events, and end when the stream is over.
func (c *soakClient) intend(storm context.Context, leave func()) (stall, end func()) {
	after, began := 4*c.someTime(), time.Now()
	stall, end = func() {}, func() {}
	onTime := func(do func()) func() {
		timer := time.AfterFunc(after, func() {
			if storm.Err() == nil {
				do()
			}
		})
		return func() { timer.Stop() }
	}
	stalls := func(how time.Duration) func() {
		return func() {
			if time.Since(began) > after && storm.Err() == nil {
				c.stalls.Add(1)
				sleep(storm, how)
				after += time.Hour
			}
		}
	}
	switch n := c.rand.IntN(20); {
	case n < 5:
		end = onTime(leave)
	case n < 8 && c.own:
		end = onTime(func() { c.cuts.Add(1); c.line.cut(); leave() })
	case n < 12:
		stall = stalls(c.someTime())
	case n < 13: // does not read again before it is cut
		stall = stalls(15 * time.Second)
	}
	return stall, end
}

// take checks what it is sent.
func (c *soakClient) take(e sse.Event, format string) (err error) {
	version, err := c.document.newestIn(e.Data)
	if err != nil {
		return err
	}
	// A log in another configuration may be a version behind that which the client left.
	if version <= c.at && (epoch(e.ID) == epoch(c.id) || version < c.at-20) {
		return fmt.Errorf("version %d (%s) comes after %d: %.300s", version, e.ID, c.at, e.Data)
	}
	if c.applies {
		if err := c.apply(e, format); err != nil {
			return fmt.Errorf("%w: %.300s", err, e.Data)
		}
	}
	c.id = e.ID
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = version
	return nil
}

// epoch returns the part of an id or a tag that names one life of one log.
func epoch(id string) string {
	id = strings.TrimPrefix(id, `W/"`)
	return id[:min(len(id), 11)]
}

func (c *soakClient) apply(e sse.Event, format string) (err error) {
	if format == "patch" {
		c.doc, err = oracle.Apply(c.doc, []byte(e.Data))
	} else if v, err := oracle.Value([]byte(e.Data)); err != nil {
		return err
	} else if format == "full" || e.Type == "snapshot" {
		c.doc = v
	} else {
		c.doc = oracle.Merge(c.doc, v)
	}
	if err != nil || c.pointer != "" {
		return err
	}
	return checkTotal(c.doc)
}

// checkTotal looks whether a document says what its upstream has written.
func checkTotal(doc any) error {
	members, _ := doc.(map[string]any)
	items, _ := members["items"].([]any)
	total := int64(0)
	for i, item := range items {
		members, _ := item.(map[string]any)
		number, _ := members["value"].(json.Number)
		value, err := number.Int64()
		if err != nil {
			return err
		}
		total += int64(i+1) * value
	}
	if said, ok := members["total"].(json.Number); !ok || said.String() != strconv.FormatInt(total, 10) {
		return fmt.Errorf("total is %v, not %d", members["total"], total)
	}
	return nil
}
