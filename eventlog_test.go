package pollsse

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pollsse/caddy-poll-sse/internal/sse"
)

// logOf returns a log whose snapshots say "whole <document>" and whose events are
// the patches, of the first generation.
func logOf(maxEvents int, maxBytes int64) *eventLog {
	return newEventLog(eventLogConfig{
		whole:     func(document []byte) []byte { return append([]byte("whole "), document...) },
		maxEvents: maxEvents,
		maxBytes:  maxBytes,
	})
}

// text returns what a stream writes of events.
func text(events []*frame) string {
	var b strings.Builder
	for _, f := range events {
		b.Write(f.text)
	}
	return b.String()
}

// data returns what the events of a batch say.
func data(t *testing.T, b batch) (all []string) {
	t.Helper()
	r := sse.NewReader(strings.NewReader(text(b.events)))
	for range b.events {
		e, err := r.Next()
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, e.Data)
	}
	return all
}

var roomy = "a document" + strings.Repeat(" so large", 30) + " that no few events are larger than its snapshot"

// version n of the test's document.
func documentNo(n int) []byte { return fmt.Appendf(nil, "%s %d", roomy, n) }

func appendVersions(l *eventLog, from, to int) {
	for n := from; n < to; n++ {
		l.append(documentNo(n), fmt.Appendf(nil, "patch %d", n), 1)
	}
}

func TestCursors(t *testing.T) {
	l := logOf(3, 1<<20)
	appendVersions(l, 0, 6) // 0, 1 are evicted; 2 is the oldest that is known
	at := func(seq uint64) eventID { return eventID{l.epoch, seq, digestOf(documentNo(int(seq)))} }
	other := func(id eventID) eventID { id.epoch++; return id }
	whole := "whole " + string(documentNo(5))
	for _, c := range []struct {
		name   string
		cursor eventID
		want   string
		how    resumption
	}{
		{"new", eventID{}, whole, resumedSnapshot},
		{"newest", at(5), "", resumedHeld},
		{"one behind", at(4), "patch 5", resumedHeld},
		{"oldest held", at(2), "patch 3|patch 4|patch 5", resumedHeld},
		{"evicted", at(1), whole, resumedSnapshot},
		{"ahead of us", at(6), whole, resumedSnapshot},
		{"far ahead", eventID{l.epoch, 1<<64 - 1, 7}, whole, resumedSnapshot},
		{"wrong digest", eventID{l.epoch, 4, 7}, whole, resumedSnapshot},
		{"another life, same document", other(at(3)), "patch 4|patch 5", resumedDigest},
		{"another life, newest document", other(at(5)), "", resumedDigest},
		{"another life, evicted document", other(at(0)), whole, resumedSnapshot},
		{"garbage", eventID{1, 2, 3}, whole, resumedSnapshot},
	} {
		b := l.after(c.cursor, 1, nil)
		if got := strings.Join(data(t, b), "|"); got != c.want || b.how != c.how {
			t.Errorf("%s: %q (%s), want %q (%s)", c.name, got, b.how, c.want, c.how)
		}
		if b.cursor != at(5) {
			t.Errorf("%s: ends at %v", c.name, b.cursor)
		}
	}
}

func TestNewestOfSameDocumentIsTheOne(t *testing.T) { // A → B → A
	l := logOf(10, 1<<20)
	for _, n := range []int{1, 2, 1} {
		l.append(documentNo(n), fmt.Appendf(nil, "patch to %d", n), 1)
	}
	if b := l.after(eventID{9, 9, digestOf(documentNo(1))}, 1, nil); len(b.events) != 0 || b.how != resumedDigest {
		t.Errorf("%q (%s)", data(t, b), b.how)
	}
	// But who names the first A is sent both changes.
	if b := l.after(eventID{l.epoch, 0, digestOf(documentNo(1))}, 1, nil); len(b.events) != 2 {
		t.Errorf("%q (%s)", data(t, b), b.how)
	}
}

func TestSmallerSnapshotWins(t *testing.T) {
	l := logOf(10, 1<<20)
	for n := range 4 {
		l.append(fmt.Appendf(nil, "%d", n), []byte("a patch much longer than the document"), 1)
	}
	b := l.after(eventID{l.epoch, 1, digestOf([]byte("1"))}, 1, nil)
	if got := data(t, b); len(got) != 1 || got[0] != "whole 3" || b.how != resumedSmaller {
		t.Errorf("%q (%s)", got, b.how)
	}
}

func TestHistoryIsBounded(t *testing.T) {
	l := logOf(1000, 1000)
	appendVersions(l, 0, 500)
	size := 0
	for _, v := range l.versions[1:] {
		size += len(v.event.text)
	}
	if size < 900 || size > 1000 || l.versions[0].event != nil {
		t.Errorf("%d bytes held", size)
	}
	l.append(documentNo(500), bytes.Repeat([]byte("1"), 2000), 1) // no room even for itself
	if b := l.after(eventID{l.epoch, 499, digestOf(documentNo(499))}, 1, nil); b.how != resumedSnapshot {
		t.Errorf("an event larger than the history: %s", b.how)
	}
}

func TestGenerations(t *testing.T) {
	l := logOf(10, 1<<20)
	at := func(n int) eventID { return eventID{l.epoch, uint64(n), digestOf(documentNo(n))} }
	appendVersions(l, 0, 3) // by generation 1
	if b := l.after(eventID{}, 2, nil); len(b.events) != 0 || b.how != resumedNothing {
		t.Errorf("a new generation sees %q before its own poll", data(t, b))
	}
	l.confirm(2)
	if b := l.after(eventID{}, 2, nil); b.how != resumedSnapshot || len(b.events) != 1 {
		t.Errorf("after its own poll it sees %q (%s)", data(t, b), b.how)
	}
	if b := l.after(at(0), 2, nil); len(b.events) != 2 || b.how != resumedHeld {
		t.Errorf("a client with its id sees %q (%s)", data(t, b), b.how)
	}
	if b := l.after(eventID{7, 7, digestOf(documentNo(0))}, 2, nil); b.how != resumedSnapshot {
		t.Errorf("a client with just the digest of what an older generation polled: %s", b.how)
	}
	if b := l.after(eventID{7, 7, digestOf(documentNo(2))}, 2, nil); b.how != resumedDigest {
		t.Errorf("a client with the digest of what this generation polled: %s", b.how)
	}
	l.append(documentNo(3), []byte("patch 3"), 2)
	if b := l.after(at(1), 1, nil); len(b.events) != 1 || b.cursor != at(2) {
		t.Errorf("an old generation sees %q", data(t, b))
	}
	if b := l.after(eventID{}, 1, nil); len(b.events) != 0 {
		t.Errorf("an old generation is sent the snapshot of a newer one: %q", data(t, b))
	}
	if b := l.after(at(2), 2, nil); len(b.events) != 1 {
		t.Errorf("the new generation sees %q", data(t, b))
	}
}

// Readers that come, go and lag rebuild every state in order, or one later snapshot.
func TestRandomReaders(t *testing.T) {
	const last = 2000
	l := logOf(50, 1<<20)
	var readers sync.WaitGroup
	for range 8 {
		readers.Go(func() {
			cursor, seen := eventID{}, -1
			for seen < last {
				b := l.after(cursor, 1, nil)
				for _, event := range b.events {
					text := string(event.text)
					var n int
					if _, err := fmt.Sscanf(text, "data: patch %d\n", &n); err == nil {
						if n != seen+1 {
							t.Errorf("patch %d after %d", n, seen)
						}
					} else if _, err := fmt.Sscanf(text, "data: whole "+roomy+" %d\n", &n); err != nil || n <= seen {
						t.Errorf("event %q after %d", text, seen)
					}
					seen = n
				}
				cursor = b.cursor
				if seen < last && rand.IntN(4) > 0 {
					<-b.changed
				}
			}
		})
	}
	appendVersions(l, 0, last+1)
	readers.Wait()
}

// Who waits is woken by a version at once, and by those that follow close on it together.
func TestWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := logOf(10, 1<<20)
		var batches []int
		go func() {
			for cursor := (eventID{}); cursor.seq < 5; {
				b := l.after(cursor, 1, nil)
				cursor = b.cursor
				batches = append(batches, len(b.events))
				<-b.changed
			}
		}()
		for n, want := range []string{"[0]", "[0 1]", "[0 1]", "[0 1]", "[0 1 3]", "[0 1 3 1]"} {
			synctest.Wait()
			if got := fmt.Sprint(batches); got != want {
				t.Fatalf("before version %d: batches of %s, want %s", n, got, want)
			}
			appendVersions(l, n, n+1)
			if n == 3 || n == 4 {
				time.Sleep(wakeApart)
			}
		}
		time.Sleep(wakeApart)
		synctest.Wait()
		l.wake()
	})
}

// A client that brings just a digest is recognised by what its own generation
// polled, whether that began with a change or without one.
func TestDigestsOfGenerations(t *testing.T) {
	elsewhere := func(n int) eventID { return eventID{7, 7, digestOf(documentNo(n))} }
	l := logOf(10, 1<<20)
	l.confirm(1) // of nothing
	appendVersions(l, 0, 3)
	l.confirm(1) // once more, which forgets nothing
	if b := l.after(elsewhere(0), 1, nil); b.how != resumedDigest {
		t.Errorf("after another poll of the same generation: %s", b.how)
	}
	l.append(documentNo(3), []byte("patch 3"), 2)
	if b := l.after(elsewhere(1), 2, nil); b.how != resumedSnapshot {
		t.Errorf("a digest of what an older generation polled: %s", b.how)
	}
	if b := l.after(elsewhere(3), 2, nil); b.how != resumedDigest {
		t.Errorf("a digest of what this generation polled: %s", b.how)
	}
}

func TestEpochsAreRandom(t *testing.T) {
	ones, zeros := uint64(0), uint64(0)
	for range 64 {
		epoch := logOf(1, 1).epoch
		ones, zeros = ones|epoch, zeros|^epoch
	}
	if ones != 1<<64-1 || zeros != 1<<64-1 {
		t.Errorf("bits that vary: %x", ones&zeros)
	}
}

// Long-polls see the head only where their generation may see it.
func TestNewestOfGenerations(t *testing.T) {
	l := logOf(10, 1<<20)
	expect := func(generation uint64, want []byte) {
		t.Helper()
		document, _, has, changed := l.newest([]eventID{{1, 2, 3}}, generation)
		if !bytes.Equal(document, want) || has || changed == nil {
			t.Errorf("generation %d is sent %q, has it %v", generation, document, has)
		}
	}
	expect(1, nil)
	appendVersions(l, 0, 1)
	expect(1, documentNo(0))
	expect(2, nil)
	l.append(documentNo(1), []byte("patch 1"), 2)
	expect(1, nil)
	expect(2, documentNo(1))
	if _, id, has, _ := l.newest([]eventID{{7, 7, digestOf(documentNo(1))}}, 2); !has || id.seq != 1 {
		t.Errorf("the document is not recognised: %v", id)
	}
	if _, _, has, _ := l.newest([]eventID{l.versions[0].id}, 2); has {
		t.Error("the document before passes for the newest")
	}
}

// BenchmarkWaking is what it takes until 10,000 who wait have all been woken by an event
// and know it.
func BenchmarkWaking(b *testing.B) {
	const streams = 10_000
	l := logOf(10, 1<<20)
	appendVersions(l, 0, 1)
	var reading, running sync.WaitGroup
	var over atomic.Bool
	reading.Add(streams)
	for range streams {
		running.Go(func() {
			var events []*frame
			for cursor := (eventID{}); !over.Load(); {
				batch := l.after(cursor, 1, events)
				cursor, events = batch.cursor, reusable(batch.events)
				if len(batch.events) > 0 {
					reading.Done()
				}
				<-batch.changed
			}
		})
	}
	reading.Wait()
	n := 1
	for b.Loop() {
		reading.Add(streams)
		appendVersions(l, n, n+1)
		l.wake() // also if that was just now
		reading.Wait()
		n++
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/streams, "ns/stream")
	over.Store(true)
	l.wake()
	running.Wait()
}

// Who is far behind is sent what fits a batch, then at once what comes after it; what is
// too large for any batch comes alone.
func TestBatches(t *testing.T) {
	const size = 20 << 10 // and a few bytes
	l := logOf(100, 1<<30)
	whole := bytes.Repeat([]byte("0"), 1<<20)
	for n := range 12 {
		patch := bytes.Repeat([]byte("x"), size)
		if n == 8 {
			patch = bytes.Repeat([]byte("x"), 5*size)
		}
		l.append(fmt.Appendf(whole, "%d", n), patch, 1)
	}
	cursor := l.versions[0].id
	var batches []int
	for cursor != l.headLocked().id {
		b := l.after(cursor, 1, nil)
		batches = append(batches, len(b.events))
		more := isClosed(b.changed)
		if cursor = b.cursor; len(b.events) == 0 || more != (cursor != l.headLocked().id) {
			t.Fatalf("batches of %d, then more: %v", batches, more)
		}
	}
	if got := fmt.Sprint(batches); got != "[3 3 1 1 3]" {
		t.Errorf("batches of %s", got)
	}
	// But a snapshot is sent instead where that is smaller than all that is missing.
	l.append([]byte("small"), []byte("another patch"), 1)
	if b := l.after(l.versions[0].id, 1, nil); b.how != resumedSmaller || len(b.events) != 1 || b.cursor != l.headLocked().id || isClosed(b.changed) {
		t.Errorf("%d events (%s)", len(b.events), b.how)
	}
	// One event is not compared with it, which the client then need not build anew.
	l.append([]byte("tiny"), []byte("a patch that is larger than that"), 1)
	if b := l.after(l.versions[len(l.versions)-2].id, 1, nil); b.how != resumedHeld || len(b.events) != 1 {
		t.Errorf("%d events (%s)", len(b.events), b.how)
	}
}

// A poll of its own generation that finds nothing new is what a stream has waited for.
func TestConfirmingWakes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := logOf(10, 1<<20)
		appendVersions(l, 0, 1)
		time.Sleep(time.Second)
		b := l.after(eventID{}, 2, nil)
		if l.confirm(2); !isClosed(b.changed) {
			t.Error("nobody is woken")
		}
		if b = l.after(b.cursor, 2, nil); len(b.events) != 1 {
			t.Errorf("then it is sent %q", data(t, b))
		}
		if l.confirm(2); isClosed(b.changed) {
			t.Error("all are woken for nothing")
		}
	})
}

// Each event, and each snapshot, may refer to the event that most clients have.
func TestEventsReferToTheOneBefore(t *testing.T) {
	for _, maxEvents := range []int{0, 10} {
		l := logOf(maxEvents, 1<<20)
		appendVersions(l, 0, 1)
		cursor := l.headLocked().id
		var before *frame
		for n := 1; n < 5; n++ {
			appendVersions(l, n, n+1)
			b := l.after(cursor, 1, nil)
			event, snapshot := b.events[0], l.snapshot()
			cursor = b.cursor
			for _, f := range []*frame{event, snapshot} {
				if before == nil && f.before.number != 0 || before != nil && (f.before.number != before.number || string(f.before.text) != string(before.text)) {
					t.Errorf("%d events: version %d refers to frame %d", maxEvents, n, f.before.number)
				}
			}
			before = event
		}
	}
}

// A snapshot that nobody is sent is not made.
func TestSnapshotsAreMadeForSomebody(t *testing.T) {
	l, made := logOf(10, 1<<20), 0
	l.whole = func(document []byte) []byte { made++; return document }
	appendVersions(l, 0, 5)
	if b := l.after(l.versions[0].id, 1, nil); len(b.events) != 4 || made != 0 {
		t.Errorf("%d events, %d snapshots", len(b.events), made)
	}
	for range 2 {
		if b := l.after(eventID{}, 1, nil); len(b.events) != 1 || made != 1 {
			t.Errorf("%d events, %d snapshots", len(b.events), made)
		}
	}
}

// Whoever writes into a document can give two versions of it the same digest, here by
// 8 bytes in each of two stripes of XXH64. A client whose place in this very log is
// gone, or which the log never gave it, is not taken for one that has the other version.
func TestEvictedVersionsAreNotFoundByDigest(t *testing.T) {
	document := func(price, salt string) []byte {
		return []byte(`{"owner":"a user","n":1,"price":` + price + `,"text":"any text","s":"` + salt + `","filler":"lorem ipsum lorem ipsum"}`)
	}
	a, b := document("10000001", "A00aj000"), document("20000161", "33S40ApD")
	if digestOf(a) != digestOf(b) {
		t.Fatal("the digests differ")
	}
	l := newEventLog(eventLogConfig{maxBytes: 1 << 20}) // as for whole documents: the head is all it holds
	l.append(a, nil, 1)
	atA := l.after(eventID{}, 1, nil).cursor
	l.append(b, nil, 1)
	never := atA
	never.seq = 7
	for _, cursor := range []eventID{atA, never} {
		if got := l.after(cursor, 1, nil); len(got.events) != 1 || got.how != resumedSnapshot {
			t.Errorf("after %v: %d events, %s", cursor, len(got.events), got.how)
		}
	}
	if _, _, has, _ := l.newest([]eventID{atA}, 1); has {
		t.Error("a long-poll that has the one document is told that it has the other")
	}
}

// A client of this log whose document has come back since, after its version was evicted,
// is sent it again; to one of another log it is the same document.
func TestEvictedVersionsThatCameBack(t *testing.T) {
	l := newEventLog(eventLogConfig{maxBytes: 1 << 20})
	l.append(documentNo(0), nil, 1)
	first := l.after(eventID{}, 1, nil).cursor
	l.append(documentNo(1), nil, 1)
	l.append(documentNo(0), nil, 1)
	elsewhere := first
	elsewhere.epoch++
	if got := l.after(first, 1, nil); len(got.events) != 1 || got.how != resumedSnapshot || got.cursor.seq != 2 {
		t.Errorf("%d events, %s, at %v", len(got.events), got.how, got.cursor)
	}
	if got := l.after(elsewhere, 1, nil); len(got.events) != 0 || got.how != resumedDigest {
		t.Errorf("of another log: %d events, %s", len(got.events), got.how)
	}
}
