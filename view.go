package pollsse

import (
	"bytes"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/pollsse/caddy-poll-sse/internal/jsondiff"
)

// Formats of events.
const (
	formatPatch = "patch" // JSON Patch (RFC 6902)
	formatFull  = "full"  // whole documents
	formatMerge = "merge" // JSON Merge Patch (RFC 7396), or the whole as a snapshot event
)

func validFormat(format string) bool {
	return format == formatPatch || format == formatFull || format == formatMerge
}

// wish is what a client can ask for of a resource.
type wish struct {
	format  string
	pointer string // to the part of the document that is sent, "" for all of it
}

// view is what all clients with the same wish follow: a log of what was sent to them.
type view struct {
	log     *eventLog
	pointer string
	differ  jsondiff.Differ
	evicted prometheus.Counter
	ignored []string // patterns for the part that the pointer leads to

	// Guarded by the lock of the resource, which is taken before that of a view.
	streams int
	until   time.Time // when the view ends, if there are no streams

	mu         sync.Mutex         // guards all below
	published  *jsondiff.Document // last, all of it
	sent       *jsondiff.Document // last, or one of the same value; nil before the first
	rest       *jsondiff.Document // of sent, without what is ignored
	generation uint64             // the newest one that has confirmed what was sent
}

func (h *Handler) newView(w wish) *view {
	v := &view{pointer: w.pointer, differ: h.differ(w), evicted: evictionsTotal.WithLabelValues(h.server, "event")}
	for _, pattern := range h.Ignore {
		// Who selects no more than what is ignored wants it.
		if rest, ok := jsondiff.Rebase(pattern, w.pointer); ok && rest != "" {
			v.ignored = append(v.ignored, rest)
		}
	}
	c := eventLogConfig{eventType: h.Event, snapshotType: h.Event, maxEvents: h.History.Events, maxBytes: h.History.Size}
	switch w.format {
	case formatPatch:
		c.whole = jsondiff.Whole
	case formatMerge:
		c.snapshotType = eventSnapshot
	case formatFull:
		c.maxEvents = 0 // only the newest document is ever sent
	}
	v.log = newEventLog(c)
	return v
}

// publish appends what a good poll of generation has found to the log, where that is
// new to the view's clients, and reports whether it was.
func (v *view) publish(result pollResult, generation uint64) (sent bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.publishLocked(result, generation)
}

func (v *view) publishLocked(result pollResult, generation uint64) (sent bool) {
	if result.document == v.published && generation == v.generation {
		return false
	}
	v.published = result.document
	document, patch, changed := v.compareLocked(result)
	if changed && len(v.ignored) > 0 {
		rest, _, differs := v.mustDiff(v.rest, document.Without(v.ignored))
		// What a newer configuration's route has answered is not mixed with what an
		// older one's has: it is sent, even if it differs in ignored members only.
		if !differs && generation == v.generation {
			return false
		}
		v.rest = rest
	}
	if changed {
		v.evicted.Add(float64(v.log.append(document.Bytes(), patch, generation)))
	}
	v.sent = document
	v.confirmLocked(generation)
	return changed
}

// confirm notes that generation has found what was sent unchanged.
func (v *view) confirm(generation uint64) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.confirmLocked(generation)
}

func (v *view) confirmLocked(generation uint64) {
	v.generation = max(v.generation, generation)
	v.log.confirm(generation)
}

// compareLocked returns the view's part of a document, and how it differs from what was
// sent.
func (v *view) compareLocked(result pollResult) (document *jsondiff.Document, patch []byte, changed bool) {
	switch {
	case v.pointer == "" && v.sent == nil:
		return result.document, nil, true
	case v.pointer == "" && v.sent == result.before && !v.differ.Merge:
		return result.document, result.patch, result.changed // is what the poll was compared with
	}
	text := result.document.Bytes()
	if v.pointer != "" {
		found, ok := result.document.Find(v.pointer)
		if !ok {
			found = []byte("null")
		}
		if v.sent != nil && bytes.Equal(v.sent.Bytes(), found) {
			return v.sent, nil, false
		}
		text = bytes.Clone(found) // or it would keep the memory of the whole
	}
	return v.mustDiff(v.sent, text)
}

// mustDiff is for texts out of documents.
func (v *view) mustDiff(old *jsondiff.Document, text []byte) (*jsondiff.Document, []byte, bool) {
	document, patch, changed, err := diff(&v.differ, old, text)
	if err != nil {
		panic("view: internal error: " + err.Error())
	}
	return document, patch, changed
}

// forget makes the next publish send the whole.
func (v *view) forget() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.published, v.sent, v.rest = nil, nil, nil
}
