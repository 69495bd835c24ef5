package pollsse

import (
	"crypto/rand"
	"encoding/binary"
	"sync"
	"time"
)

// eventLog remembers what was sent of one document in one view: the head, which
// is the newest version, and a bounded history of the events that led to it. All
// streams of a view read from its log, each with a cursor of its own, and nothing
// is kept for any of them.
//
// Each version belongs to the generation of the configuration that polled it.
// A stream sees no version of a newer generation than its own, and none at all
// before a poll of its own generation, or of a newer one, has confirmed the head.
type eventLog struct {
	eventLogConfig
	epoch uint64

	mu        sync.Mutex    // guards all below
	versions  []version     // oldest first; the head is last; empty before the first document
	document  []byte        // of the head
	snapshot  func() *frame // the event that leads to the head from anywhere
	confirmed uint64        // the newest generation that polled the head itself
	floor     uint64        // versions below it were polled by older generations only
	changed   chan struct{} // closed when there may be something new
	woken     time.Time     // when it was closed last
	waking    bool          // it will be closed soon

	last *frame // the newest event, for append only
}

// version is one state of the document, and the event that leads to it from the
// one before. Of the oldest version only the id counts.
type version struct {
	id         eventID
	generation uint64
	event      *frame
	bytes      int64 // of all events of the log up to this one
}

// eventLogConfig says how a log writes its events and how many it keeps.
type eventLogConfig struct {
	eventType    string                       // "" for unnamed messages
	snapshotType string                       // the same for events that say the whole document
	whole        func(document []byte) []byte // their data; nil where that is the document itself
	maxEvents    int
	maxBytes     int64
}

// newEventLog returns an empty log with an epoch of its own.
func newEventLog(c eventLogConfig) *eventLog {
	var epoch [8]byte
	rand.Read(epoch[:]) // never fails
	return &eventLog{
		eventLogConfig: c,
		epoch:          binary.BigEndian.Uint64(epoch[:]),
		changed:        make(chan struct{}),
	}
}

// append makes document, polled by generation, the head. The event that leads to
// it is patch, or the whole document where patch is nil. It returns how many events
// have left the history for it. Only one goroutine at a time may append.
func (l *eventLog) append(document, patch []byte, generation uint64) (evicted int) {
	id := eventID{epoch: l.epoch, seq: l.nextSeq(), digest: digestOf(document)}
	before := l.last
	snapshot := sync.OnceValue(func() *frame {
		data := document
		if l.whole != nil {
			data = l.whole(document)
		}
		return newFrame(appendEvent(nil, l.snapshotType, data, id), before)
	})
	var event *frame
	switch {
	case id.seq == 0: // nothing leads there but the snapshot
	case patch == nil || l.maxEvents == 0:
		event = snapshot()
	default:
		event = newFrame(appendEvent(nil, l.eventType, patch, id), before)
	}
	l.last = event

	l.mu.Lock()
	v := version{id: id, generation: generation, event: event}
	if event != nil {
		v.bytes = l.headLocked().bytes + int64(len(event.text))
	}
	l.versions = append(l.versions, v)
	l.document, l.snapshot = document, snapshot
	for len(l.versions)-1 > l.maxEvents || v.bytes-l.versions[0].bytes > l.maxBytes {
		l.versions = l.versions[1:]
		l.versions[0].event = nil // nothing leads to the oldest version
		evicted++
	}
	if l.maxEvents == 0 { // there is no history
		evicted = 0
	}
	if generation > l.confirmed {
		l.confirmed, l.floor = generation, id.seq
	}
	l.wakeAndUnlock()
	return evicted
}

// held returns how many events the history has, and their size in bytes.
func (l *eventLog) held() (events int, bytes int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.versions) == 0 {
		return 0, 0
	}
	return len(l.versions) - 1, l.headLocked().bytes - l.versions[0].bytes
}

func (l *eventLog) nextSeq() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.versions) == 0 {
		return 0
	}
	return l.headLocked().id.seq + 1
}

func (l *eventLog) headLocked() version { return l.versions[len(l.versions)-1] }

// confirm notes that a poll of generation found the document unchanged.
func (l *eventLog) confirm(generation uint64) {
	l.mu.Lock()
	if generation <= l.confirmed || len(l.versions) == 0 {
		l.mu.Unlock()
		return
	}
	l.confirmed, l.floor = generation, l.headLocked().id.seq
	l.wakeAndUnlock()
}

// wakeApart is how far apart wakes because of events are at least: where a source is
// faster than its streams can be written to, each of them writes several events at once.
const wakeApart = 10 * time.Millisecond

// wakeAndUnlock wakes everybody who waits for something new, at once unless they have
// been woken just before, and without making them wait for the lock.
func (l *eventLog) wakeAndUnlock() {
	if early := wakeApart - time.Since(l.woken); early > 0 {
		if !l.waking {
			l.waking = true
			time.AfterFunc(early, l.wake)
		}
		l.mu.Unlock()
		return
	}
	l.mu.Unlock()
	l.wake()
}

// wake wakes everybody who waits.
func (l *eventLog) wake() {
	l.mu.Lock()
	changed := l.changed
	l.changed = make(chan struct{})
	l.woken, l.waking = time.Now(), false
	l.mu.Unlock()
	close(changed)
}

// resumption says how a place was found.
type resumption string

const (
	resumedNothing  resumption = "empty"    // there is nothing that the client may see yet
	resumedHeld     resumption = "held"     // the log holds the version that the client names
	resumedDigest   resumption = "digest"   // the log holds another version of the same document
	resumedSmaller  resumption = "smaller"  // held, but the snapshot is smaller than the events
	resumedSnapshot resumption = "snapshot" // not held
)

// batch is what a stream is to write next.
type batch struct {
	events  []*frame
	cursor  eventID // where the client is when it has read them
	how     resumption
	changed <-chan struct{} // closed when there may be more
}

// maxBatch is the size in bytes that a batch of more than one event has at most, so that
// a slow client keeps no more than that alive of what the log has evicted.
const maxBatch = chunk

// always is closed.
var always = func() <-chan struct{} { c := make(chan struct{}); close(c); return c }()

// after returns what leads from cursor to the head, as far as generation may see
// it: the events between them where the log holds the cursor's version, beginning with
// those that fit a batch, and one snapshot where it does not or where that is smaller.
// It may use the memory of events.
func (l *eventLog) after(cursor eventID, generation uint64, events []*frame) batch {
	l.mu.Lock()
	changed := l.changed
	b := batch{events: events[:0], cursor: cursor, how: resumedNothing, changed: changed}
	visible := l.visibleLocked(generation)
	if visible == 0 {
		l.mu.Unlock()
		return b
	}
	at, how := l.findLocked(cursor, visible)
	var missing int
	var size int64
	if at >= 0 {
		missing, size = visible-1-at, l.versions[visible-1].bytes-l.versions[at].bytes
		b.cursor, b.how = l.versions[at].id, how
		for _, v := range l.versions[at+1 : visible] {
			if len(b.events) > 0 && v.bytes-l.versions[at].bytes > maxBatch {
				b.changed = always
				break
			}
			b.events, b.cursor = append(b.events, v.event), v.id
		}
	}
	head, snapshot, snapshotAtLeast := l.headLocked(), l.snapshot, int64(len(l.document))
	l.mu.Unlock()

	if head.generation > generation {
		return b // the snapshot is not for this stream
	}
	switch {
	case at < 0:
		return batch{append(b.events, snapshot()), head.id, resumedSnapshot, changed}
	case missing > 1 && snapshotAtLeast < size && int64(len(snapshot().text)) < size:
		return batch{append(b.events[:0], snapshot()), head.id, resumedSmaller, changed}
	}
	return b
}

// newest returns the document and the id of the head, and what is closed when it may be
// another. The document is nil where generation may not see it yet. The client has it
// if one of the ids that it knows leads there without an event.
func (l *eventLog) newest(known []eventID, generation uint64) (document []byte, id eventID, has bool, changed <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	visible := l.visibleLocked(generation)
	if visible == 0 || visible < len(l.versions) {
		return nil, eventID{}, false, l.changed
	}
	head := l.headLocked().id
	for _, k := range known {
		if k.digest == head.digest { // spares a look through all versions
			at, _ := l.findLocked(k, visible)
			has = has || at == visible-1
		}
	}
	return l.document, head, has, l.changed
}

// visibleLocked returns how many versions a stream of that generation may see.
func (l *eventLog) visibleLocked(generation uint64) int {
	if generation > l.confirmed {
		return 0
	}
	n := len(l.versions)
	for n > 0 && l.versions[n-1].generation > generation {
		n--
	}
	return n
}

// findLocked returns the index of the version that id names among the visible
// ones: itself, else, where another log gave the id, the newest of the same document,
// else -1. What this log has evicted is not found by its digest: whoever writes into a
// document can give two versions of it the same. Documents of older generations are
// found by their very id only, which nobody has who was not sent them: handlers that
// look alike may have changed places.
func (l *eventLog) findLocked(id eventID, visible int) (int, resumption) {
	if id == (eventID{}) {
		return -1, resumedSnapshot
	}
	first := l.versions[0].id.seq
	if id.epoch == l.epoch {
		if at := id.seq - first; id.seq >= first && at < uint64(visible) && l.versions[at].id == id {
			return int(at), resumedHeld
		}
		return -1, resumedSnapshot
	}
	for at := visible - 1; at >= 0 && l.versions[at].id.seq >= l.floor; at-- {
		if l.versions[at].id.digest == id.digest {
			return at, resumedDigest
		}
	}
	return -1, resumedSnapshot
}
