package pollsse

import (
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// maxWait is how long a long-poll waits at most, whatever the client prefers.
const maxWait = 60 * time.Second

// preferredWait returns how long the client wants to wait for a document that it does
// not have (RFC 7240 §4.3); ok is false where r is no long-poll.
func preferredWait(r *http.Request) (wait time.Duration, ok bool) {
	if r.Method != http.MethodGet {
		return 0, false
	}
	for preference := range elements(r.Header["Prefer"]) {
		preference, _, _ = strings.Cut(preference, ";")
		name, value, _ := strings.Cut(preference, "=")
		if !strings.EqualFold(strings.TrimSpace(name), "wait") {
			continue
		}
		// The first one counts (RFC 7240 §2).
		seconds, err := strconv.ParseUint(strings.Trim(value, " \t\""), 10, 31)
		return min(time.Duration(seconds)*time.Second, maxWait), err == nil
	}
	return 0, false
}

// maxKnown is how many entity tags of a long-poll are looked at.
const maxKnown = 16

// knownIDs returns the first ids among the entity tags of the documents that the client
// has (RFC 9110 §13.1.2).
func knownIDs(r *http.Request) (ids []eventID) {
	for tag := range elements(r.Header["If-None-Match"]) {
		if len(ids) == maxKnown {
			break
		}
		if id, ok := parseEventID(strings.Trim(strings.TrimPrefix(strings.TrimSpace(tag), "W/"), `"`)); ok {
			ids = append(ids, id)
		}
	}
	return ids
}

// serveLongPoll answers r with the document of a view as soon as the client does not
// have it, or, when the wait is over, with the news that it still does.
func (h *Handler) serveLongPoll(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler, res *resource, v *view, ask *ask) error {
	deadline := ask.began.Add(min(ask.wait, h.lifetime()))
	over := time.NewTimer(time.Until(deadline))
	defer over.Stop()
	draining := h.draining
	ended := false
	for {
		document, id, has, changed := v.log.newest(ask.known, h.generation)
		switch {
		case document != nil && !has:
			h.answerLongPoll(w, r, id, ask.wait, document)
			return nil
		case document != nil && ended:
			h.answerLongPoll(w, r, id, ask.wait, nil)
			return nil
		case ended:
			return h.turnAway(w, r, between(h.Retry.Min, h.Retry.Max))
		}
		select {
		case <-changed:
		case <-over.C:
			ended = true
		case <-draining:
			draining = nil
			over.Reset(min(rand.N(time.Duration(h.Drain)), time.Until(deadline)))
		case <-h.exiting:
			ended = true
		case <-res.ended: // its own request is told why
			return h.pass(w, r, next)
		case <-r.Context().Done():
			return nil
		}
	}
}

// answerLongPoll says what the newest document is, or with 304 that the client has it.
func (h *Handler) answerLongPoll(w http.ResponseWriter, r *http.Request, id eventID, wait time.Duration, document []byte) {
	response := newResponse(w, r, h.open)
	defer response.close()
	status := http.StatusOK
	if document == nil {
		status = http.StatusNotModified
	}
	longPollsTotal.WithLabelValues(h.server, strconv.Itoa(status)).Inc()
	header := response.w.Header()
	// Weak, so that encode leaves it as it is: it names a document, not its bytes.
	header.Set("ETag", `W/"`+id.String()+`"`)
	header.Set("Preference-Applied", "wait="+strconv.Itoa(int(wait.Seconds())))
	header.Set("Cache-Control", "no-store")
	header.Add("Vary", "Accept, Prefer")
	if status == http.StatusOK {
		header.Set("Content-Type", "application/json")
		header.Set("Content-Length", strconv.Itoa(len(document)))
	}
	response.w.WriteHeader(status)
	if document != nil && response.write(time.Now(), document, nil) != nil {
		response.breakOff(r)
	}
}
