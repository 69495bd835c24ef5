// Package promise is the oracle for what this project promises its clients: every
// state of a document that the poller saw is delivered, or replaced by one later
// snapshot, to every client that stays or comes back. It is told what upstreams answer
// and what clients are sent, and knows nothing of how the one becomes the other.
package promise

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/pollsse/caddy-poll-sse/internal/oracle"
	"github.com/pollsse/caddy-poll-sse/internal/sse"
)

// Oracle knows all states of all documents.
type Oracle struct {
	ignored []string

	mu      sync.Mutex
	pollers map[string]*poller
	digests map[string]sum // what each digest in an id stands for
	logs    map[string]*log
	applied map[step]document
}

// New returns an oracle for documents in which what the patterns lead to is ignored.
func New(ignored ...string) *Oracle {
	return &Oracle{
		ignored: ignored,
		pollers: make(map[string]*poller),
		digests: make(map[string]sum),
		logs:    make(map[string]*log),
		applied: make(map[step]document),
	}
}

type sum [sha256.Size]byte

// document is a JSON value that nobody changes.
type document struct {
	value any
	sum   sum // of the one spelling that equal values have here
}

func newDocument(v any) document {
	text, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return document{v, sha256.Sum256(text)}
}

// poller is what one poller was answered.
type poller struct {
	answers []any
	views   map[string]*view // by the pointer that is selected
}

// view is what there was to be seen of a part of the document.
type view struct{ states []state }

// state is a time in which nothing changed but what is ignored.
type state struct {
	rest sum // without what is ignored
	all  []sum
}

// log is one life of an event log, as its epoch names it.
type log struct {
	wish     string
	versions map[uint64]sum
	unseen   map[uint64]bool // the versions before which it lacks a state
}

// Answer notes that a poller is about to be answered with a good document.
func (o *Oracle) Answer(name, text string) {
	v, err := oracle.Value([]byte(text))
	if err != nil {
		panic(err)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	p := o.pollerLocked(name)
	p.answers = append(p.answers, v)
	for pointer, view := range p.views {
		view.add(v, pointer, o.ignored)
	}
}

func (o *Oracle) pollerLocked(name string) *poller {
	p := o.pollers[name]
	if p == nil {
		p = &poller{views: make(map[string]*view)}
		o.pollers[name] = p
	}
	return p
}

func (p *poller) view(pointer string, ignored []string) *view {
	v := p.views[pointer]
	if v == nil {
		v = new(view)
		for _, answer := range p.answers {
			v.add(answer, pointer, ignored)
		}
		p.views[pointer] = v
	}
	return v
}

func (v *view) add(answer any, pointer string, ignored []string) {
	part, _ := oracle.Find(answer, pointer)
	all := newDocument(part).sum
	rest := all
	if len(ignored) > 0 {
		part, _ = oracle.Find(oracle.Without(answer, ignored...), pointer)
		rest = newDocument(part).sum
	}
	if n := len(v.states); n == 0 || v.states[n-1].rest != rest {
		v.states = append(v.states, state{rest, []sum{all}})
	} else if last := &v.states[n-1]; !slices.Contains(last.all, all) {
		last.all = append(last.all, all)
	}
}

// Client is what one client knows and may expect.
type Client struct {
	ID string // the last one

	oracle   *Oracle
	poller   string
	format   string
	pointer  string
	document document
	held     bool  // there is a document
	id       id    // the last one
	places   []int // which states of the view its document may be, nil: any
}

// NewClient returns one that holds nothing.
func (o *Oracle) NewClient() *Client { return &Client{oracle: o} }

// Follow says what the next connection follows: a poller's document, in a format, or a
// part of it. A client that has held another part has to forget it.
func (c *Client) Follow(poller, format, pointer string) {
	if poller != c.poller || pointer != c.pointer {
		c.places = nil // pollers are not in step
	}
	if pointer != c.pointer {
		c.Forget()
	}
	c.poller, c.format, c.pointer = poller, format, pointer
}

// Forget makes it a new client.
func (c *Client) Forget() {
	c.ID, c.id, c.document, c.held, c.places = "", id{}, document{}, false, nil
}

// Event checks and applies an event.
func (c *Client) Event(e sse.Event) error {
	whole := c.format == "full" || strings.HasPrefix(e.Data, `[{"op":"replace","path":"",`)
	if c.format == "merge" {
		whole = e.Type == "snapshot"
	}
	if !c.held && !whole {
		return errors.New("the first event is no snapshot")
	}
	c.oracle.mu.Lock()
	defer c.oracle.mu.Unlock()
	to, err := c.oracle.applyLocked(step{c.document.sum, c.format, e.Type == "snapshot", e.Data}, c.document.value)
	if err != nil {
		return err
	}
	return c.moveLocked(to, e.ID, c.format, whole)
}

// Whole checks a document that is the answer to a long-poll.
func (c *Client) Whole(text, id string) error {
	v, err := oracle.Value([]byte(text))
	if err != nil {
		return err
	}
	c.oracle.mu.Lock()
	defer c.oracle.mu.Unlock()
	return c.moveLocked(newDocument(v), id, "patch", true)
}

func (c *Client) moveLocked(to document, text, format string, whole bool) error {
	next, err := parseID(text)
	if err != nil {
		return err
	}
	if err := c.oracle.noteLocked(next, to.sum, c.poller+" "+format+" "+c.pointer); err != nil {
		return err
	}
	if next.epoch == c.id.epoch && next.seq <= c.id.seq {
		return fmt.Errorf("event %s follows %s", text, c.ID)
	}
	places := c.nextLocked(to, next, whole)
	if len(places) == 0 {
		return fmt.Errorf("event %s, whole %v, follows %s at %v: what it leads to is no state that may follow, but %v of %d", text, whole, c.ID, c.places, c.whereLocked(to.sum), len(c.statesLocked()))
	}
	c.document, c.held, c.places, c.id, c.ID = to, true, places, next, text
	return nil
}

// whereLocked returns which states are of that sum.
func (c *Client) whereLocked(s sum) (places []int) {
	for i, state := range c.statesLocked() {
		if slices.Contains(state.all, s) {
			places = append(places, i)
		}
	}
	return places
}

// nextLocked returns which states an event may lead to.
func (c *Client) nextLocked(to document, next id, whole bool) (places []int) {
	states := c.statesLocked()
	ignoring := len(c.oracle.ignored) > 0
	is := func(i int, s sum) bool { return i >= 0 && i < len(states) && slices.Contains(states[i].all, s) }
	if next.epoch == c.id.epoch && !ignoring { // the sequence numbers of a log count its states
		steps := int(next.seq - c.id.seq)
		if steps > 1 && !whole {
			return nil
		}
		for _, i := range c.places {
			if is(i+steps, to.sum) {
				places = append(places, i+steps)
			}
		}
		if places != nil {
			return places
		}
		// The last poll of a resource that ends may be answered between two of the one
		// that takes its place. Nobody sees that answer; see Unseen.
		for _, i := range c.places {
			if is(i+steps+1, to.sum) {
				c.oracle.logs[next.epoch].unseen[next.seq] = true
				places = append(places, i+steps+1)
			}
		}
		return places
	}
	first := 0
	if len(c.places) > 0 {
		first = c.places[0]
	}
	for i := first; i < len(states); i++ {
		switch {
		case whole && is(i, to.sum):
			places = append(places, i)
		case whole:
		case is(i, c.document.sum) && is(i+1, to.sum): // where its digest was recognised
			places = append(places, i+1)
		case ignoring && is(i, c.document.sum) && is(i, to.sum): // of another configuration
			places = append(places, i)
		}
	}
	return places
}

// Unseen returns how many answers no log has. Each life of a resource can end with one.
func (o *Oracle) Unseen() (unseen int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, l := range o.logs {
		unseen += len(l.unseen)
	}
	return unseen
}

func (c *Client) statesLocked() []state {
	return c.oracle.pollerLocked(c.poller).view(c.pointer, c.oracle.ignored).states
}

// IsUpToDate reports whether the client holds the newest state.
func (c *Client) IsUpToDate() bool {
	c.oracle.mu.Lock()
	defer c.oracle.mu.Unlock()
	states := c.statesLocked()
	return c.held && len(states) > 0 && slices.Contains(states[len(states)-1].all, c.document.sum)
}

// noteLocked checks what an id says of itself: its digest stands for one document, its
// epoch for one log, its sequence number for one version.
func (o *Oracle) noteLocked(n id, s sum, wish string) error {
	if was, ok := o.digests[n.digest]; ok && was != s {
		return fmt.Errorf("the digest in %v stands for two documents", n)
	}
	o.digests[n.digest] = s
	l := o.logs[n.epoch]
	if l == nil {
		l = &log{wish, make(map[uint64]sum), make(map[uint64]bool)}
		o.logs[n.epoch] = l
	}
	if l.wish != wish {
		return fmt.Errorf("the epoch in %v is of %q, not of %q", n, l.wish, wish)
	}
	if was, ok := l.versions[n.seq]; ok && was != s {
		return fmt.Errorf("the sequence number in %v stands for two documents", n)
	}
	l.versions[n.seq] = s
	return nil
}

// Counts returns how many answers there were, how many states of the whole, and how
// many lives of event logs.
func (o *Oracle) Counts() (answers, states, logs int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, p := range o.pollers {
		answers += len(p.answers)
		states += len(p.view("", o.ignored).states)
	}
	return answers, states, len(o.logs)
}

// step is an event at some document.
type step struct {
	from     sum
	format   string
	snapshot bool
	data     string
}

// applyLocked returns what an event makes of a document. Many clients are sent the same.
func (o *Oracle) applyLocked(s step, from any) (document, error) {
	if to, ok := o.applied[s]; ok {
		return to, nil
	}
	var v any
	var err error
	if s.format == "patch" {
		v, err = oracle.Apply(from, []byte(s.data))
	} else if v, err = oracle.Value([]byte(s.data)); err == nil && s.format == "merge" && !s.snapshot {
		v = oracle.Merge(from, v)
	}
	if err != nil {
		return document{}, fmt.Errorf("applying %.200s: %w", s.data, err)
	}
	if len(o.applied) > 1000 {
		clear(o.applied)
	}
	to := newDocument(v)
	o.applied[s] = to
	return to, nil
}

// id is an event id, read by what is written of it.
type id struct {
	epoch  string
	seq    uint64
	digest string
}

func parseID(text string) (n id, err error) {
	const word = 11
	if len(text) < 2*word+3 || text[word] != '-' || text[len(text)-word-1] != '-' {
		return id{}, fmt.Errorf("id %q", text)
	}
	n.epoch, n.digest = text[:word], text[len(text)-word:]
	n.seq, err = strconv.ParseUint(text[word+1:len(text)-word-1], 36, 64)
	return n, err
}

// String says what the client holds.
func (c *Client) String() string {
	c.oracle.mu.Lock()
	defer c.oracle.mu.Unlock()
	return fmt.Sprintf("%s of %s, %q: %s at %v of %d", c.format, c.poller, c.pointer, c.ID, c.places, len(c.statesLocked()))
}
