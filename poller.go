package pollsse

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"mime"
	"net/http"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.opentelemetry.io/otel/trace"
	"go.uber.org/zap"

	"github.com/pollsse/caddy-poll-sse/internal/jsondiff"
)

// source is where polls go: the rest of the route that a stream request of one
// generation of the configuration took.
type source struct {
	handler *Handler
	next    caddyhttp.Handler
	server  *caddyhttp.Server
	tracing trace.TracerProvider // of the request, which does nothing where the route has no tracing; or nil
}

// poller asks for one document again and again. It knows when to ask, how to ask
// and what counts as good. Only one goroutine may use it.
type poller struct {
	target      target
	interval    time.Duration // at least
	maxInterval time.Duration
	timeout     time.Duration
	maxBody     int64
	differ      jsondiff.Differ

	held       *jsondiff.Document // of the last good poll
	size       int                // of its body
	validators validators
	generation uint64        // whose source gave them
	failures   int           // since the last good poll
	current    time.Duration // the interval as it has adapted
}

// validators make a request conditional (RFC 9110 §13.1).
type validators struct{ etag, lastModified string }

// pollResult is what became of one poll.
type pollResult struct {
	kind       pollKind
	status     int           // of the answer, 0 where there was none
	cause      string        // one word, where the poll was not good
	err        error         // more about the cause
	retryAfter time.Duration // how long the upstream wants to be left alone
	fresh      time.Duration // how long its answer stays good
	duration   time.Duration // until it was answered
	size       int           // of the newest document as the upstream sends it, in bytes

	document *jsondiff.Document // of a good poll with a body
	before   *jsondiff.Document // what that was compared with, nil for nothing
	changed  bool               // its value is another
	patch    []byte             // that leads there; nil stands for the whole
	news     bool               // clients were sent something
	instant  bool               // a write was the reason to poll, or an operator
}

// pollKind classifies polls.
type pollKind string

const (
	pollChanged     pollKind = "changed"      // another document
	pollUnchanged   pollKind = "unchanged"    // the same one
	pollNotModified pollKind = "not_modified" // 304
	pollRejected    pollKind = "rejected"     // an answer that is no good document
	pollFailed      pollKind = "failed"       // no answer, or one that is no 200
	pollNative      pollKind = "native"       // the upstream streams by itself
)

// ownError is an error of ours, which quotes nothing that was forwarded.
type ownError string

func (e ownError) Error() string { return string(e) }

// causeUnanswered says that no handler of the route has answered.
const causeUnanswered = "unanswered"

func (r pollResult) good() bool {
	return r.kind == pollChanged || r.kind == pollUnchanged || r.kind == pollNotModified
}

// withdrawn reports whether the upstream says that the document is not, or no
// longer, for us. A 403 with Retry-After is a rate limit.
func (r pollResult) withdrawn() bool {
	return r.status == http.StatusUnauthorized || r.status == http.StatusGone ||
		r.status == http.StatusForbidden && r.retryAfter == 0
}

// passes reports whether a client that connects while there is no document shall
// see the upstream's answer to its own request rather than a stream.
func (r pollResult) passes(resuming bool) bool {
	switch {
	case r.kind == pollNative:
		return true
	case r.status < 400 || r.status > 499:
		return false
	case resuming || r.status == http.StatusForbidden:
		return r.withdrawn()
	}
	switch r.status {
	case http.StatusRequestTimeout, http.StatusMisdirectedRequest, http.StatusTooEarly, http.StatusTooManyRequests:
		return false // it may be different in a moment
	}
	return true
}

// poll asks src once, and compares its answer with the document held, if any.
func (p *poller) poll(ctx context.Context, src *source) (result pollResult) {
	parent := ctx
	ctx, span := src.startSpan(ctx, &p.target)
	defer func() { endSpan(span, result, parent.Err() != nil) }()
	ctx, cancel := context.WithTimeout(ctx, p.timeout)
	defer cancel()
	rec := &recorder{header: make(http.Header), limit: p.maxBody, abort: cancel}
	r, err := p.target.newRequest(ctx, src.server, rec)
	if err != nil {
		return pollResult{kind: pollFailed, cause: "request", err: err}
	}
	if src.handler.generation != p.generation {
		p.validators = validators{} // they were another source's
	}
	p.validators.apply(r.Header)
	propagate(ctx, r.Header)
	began := time.Now()
	err = serve(src, rec, r)
	duration := time.Since(began)
	result = p.judge(ctx, rec, err)
	if result.document != nil {
		p.held, p.validators, p.generation = result.document, newValidators(rec.sent), src.handler.generation
		p.size = len(rec.body)
	}
	result.duration, result.size = duration, p.size
	if result.good() {
		result.fresh = freshness(rec.sent)
	} else if p.failures > 0 {
		p.validators = validators{} // perhaps it is they that the upstream cannot take
	}
	return result
}

// forget makes the next poll as if it were the first.
func (p *poller) forget() { p.held, p.validators = nil, validators{} }

// serve calls the rest of the route, and turns a panic into an error: in our
// goroutine it would end the process.
func serve(src *source, w http.ResponseWriter, r *http.Request) (err error) {
	defer func() {
		switch v := recover(); v {
		case nil:
		case http.ErrAbortHandler: // how reverse_proxy says that the body broke off
			err = http.ErrAbortHandler
		default:
			err = fmt.Errorf("handler panicked: %v", v)
			src.handler.logger.Error("handler panicked during a poll", zap.Any("panic", v), zap.ByteString("stack", debug.Stack()))
		}
	}()
	return src.next.ServeHTTP(w, r)
}

// judge says what an answer is good for, and how it differs from the document held.
func (p *poller) judge(ctx context.Context, rec *recorder, err error) pollResult {
	var handlerError caddyhttp.HandlerError
	unanswered := err == nil && rec.status == 0
	if unanswered { // as if the upstream had no such path
		rec.status = http.StatusNotFound
	} else if errors.As(err, &handlerError) && rec.status == 0 {
		rec.status = handlerError.StatusCode
	}
	result := pollResult{kind: pollFailed, status: rec.status, err: err}
	switch {
	case rec.native:
		result.kind, result.cause = pollNative, "native"
	case ctx.Err() != nil:
		result.status, result.cause = 0, "timeout"
	case unanswered:
		result.cause = causeUnanswered
	case rec.status == http.StatusNotModified && p.validators == validators{}:
		result.cause = "unasked_304"
	case rec.status == http.StatusNotModified:
		result.kind = pollNotModified
	case rec.status >= 300 && rec.status < 400:
		result.cause = "redirect"
	case rec.status != 0 && rec.status != http.StatusOK:
		result.cause = "status"
		result.retryAfter = retryAfter(rec.status, rec.sentHeader())
	case rec.tooLarge:
		result.kind, result.cause, result.err = pollRejected, "too_large", ownError(fmt.Sprintf("larger than max_body (%d bytes)", rec.limit))
	case errors.Is(err, http.ErrAbortHandler), rec.status != 0 && err != nil, rec.truncated():
		result.kind, result.cause = pollRejected, "incomplete"
	case err != nil:
		result.cause = "error"
	case rec.encoded():
		result.kind, result.cause = pollRejected, "encoded"
	default:
		result.before = p.held
		result.document, result.patch, result.changed, result.err = diff(&p.differ, p.held, rec.body)
		switch {
		case result.err != nil:
			result.kind, result.cause = pollRejected, "invalid"
			mediaType, _, _ := mime.ParseMediaType(rec.sentHeader().Get("Content-Type"))
			result.err = ownError(fmt.Sprintf("%v (%d bytes, Content-Type: %.60q)", result.err, len(rec.body), mediaType))
		case result.changed:
			result.kind = pollChanged
		default:
			result.kind = pollUnchanged
		}
	}
	return result
}

// newValidators takes the validators of an answer.
func newValidators(header http.Header) validators {
	v := validators{etag: header.Get("ETag")}
	if v.etag == "*" { // would mean any version (RFC 9110 §13.1.2), hence 304 for ever
		v.etag = ""
	}
	// A document that changes twice in one second keeps its Last-Modified, so that
	// alone says nothing before the second is over (RFC 9110 §8.8.2.2).
	modified, err := http.ParseTime(header.Get("Last-Modified"))
	date, err2 := http.ParseTime(header.Get("Date"))
	if err == nil && err2 == nil && date.Sub(modified) >= 2*time.Second {
		v.lastModified = header.Get("Last-Modified")
	}
	return v
}

func (v validators) apply(header http.Header) {
	if v.etag != "" {
		header.Set("If-None-Match", v.etag)
	} else if v.lastModified != "" {
		header.Set("If-Modified-Since", v.lastModified)
	}
}

const (
	maxRetryAfter = 10 * time.Minute // however long the upstream wishes
	maxBackoff    = 30 * time.Second // unless the interval is longer
	confirmAfter  = time.Second      // when a withdrawal is asked for again
)

// next returns when to poll again after a poll that began at start and has just
// ended, and until when the upstream wants to be left alone, whatever happens.
func (p *poller) next(start time.Time, result pollResult) (at, notBefore time.Time) {
	now := time.Now()
	if result.good() {
		p.failures = 0
		p.adapt(result)
		wait := jitter(p.current)
		if p.interval < p.current && p.current <= result.fresh {
			wait = p.current + rand.N(p.current/10) // before that the answer would be the same
		}
		return start.Add(wait), now
	}
	if p.failures == 0 || !result.instant { // how often operators ask says nothing of how long it fails
		p.failures++
	}
	at = now.Add(p.backoff())
	if result.withdrawn() { // a second one in a row ends the resource
		at = now.Add(confirmAfter)
	}
	return at, now.Add(result.retryAfter)
}

// adapt sets the interval after a good poll: as long as the answer stays good, where the
// upstream says that, else the least after news, and half as long again without. How
// often clients write does not tell how seldom the document changes.
func (p *poller) adapt(result pollResult) {
	switch {
	case result.fresh > 0:
		p.current = result.fresh
	case result.news:
		p.current = p.interval
	case !result.instant:
		p.current += p.current / 2
	}
	p.current = min(max(p.current, p.interval), p.maxInterval)
}

// backoff doubles with each failure, from twice the interval up to the larger of
// the interval and maxBackoff, and is then drawn from its upper half.
func (p *poller) backoff() time.Duration {
	longest := max(p.interval, maxBackoff)
	wait := longest
	if p.failures < 30 && p.interval < longest>>p.failures {
		wait = p.interval << p.failures
	}
	return max(p.interval, wait/2+rand.N(wait/2+1))
}

// jitter spreads d by ±10 %, so that pollers do not fall into step.
func jitter(d time.Duration) time.Duration {
	return d - d/10 + rand.N(d/5+1)
}

// retryAfter returns how long the upstream wants to be left alone (RFC 9110
// §10.2.3), 0 where it does not say or says it with a status that has no use for it.
func retryAfter(status int, header http.Header) time.Duration {
	switch status {
	case http.StatusForbidden, http.StatusTooManyRequests, http.StatusServiceUnavailable:
	default:
		return 0
	}
	value := header.Get("Retry-After")
	if value == "" {
		return 0
	}
	wait := time.Duration(0)
	if seconds, err := strconv.ParseUint(value, 10, 31); err == nil {
		wait = time.Duration(seconds) * time.Second
	} else if errors.Is(err, strconv.ErrRange) {
		wait = maxRetryAfter
	} else if at, err := http.ParseTime(value); err == nil {
		wait = time.Until(at)
	} else {
		return 0
	}
	return min(max(wait, 1), maxRetryAfter)
}

// freshness returns how long an answer stays good from now on (RFC 9111 §4.2), 0 where
// that is over or not said.
func freshness(header http.Header) time.Duration {
	maxAge := -1
	for directive := range elements(header["Cache-Control"]) {
		name, value, _ := strings.Cut(strings.TrimSpace(directive), "=")
		switch strings.ToLower(name) {
		case "no-cache", "no-store":
			return 0
		case "max-age":
			n, err := strconv.Atoi(strings.Trim(value, `"`))
			if maxAge < 0 && (err == nil || errors.Is(err, strconv.ErrRange)) { // which is very long
				maxAge = n
			}
		}
	}
	age, _ := strconv.Atoi(header.Get("Age")) // a bad one is none
	return time.Duration(min(max(maxAge-max(age, 0), 0), math.MaxInt32)) * time.Second
}

// recorder is the ResponseWriter of a poll. It takes the body of a 200 up to a
// limit, and refuses to read a stream.
type recorder struct {
	header   http.Header        // as handlers see it
	sent     http.Header        // as it was when the status was written
	abort    context.CancelFunc // ends the poll
	status   int
	body     []byte
	limit    int64
	ignored  int64 // bytes of a body that nobody wants
	native   bool
	tooLarge bool
}

func (w *recorder) Header() http.Header { return w.header }

func (w *recorder) WriteHeader(status int) {
	if status < 100 { // is none, and "as if it had a 5xx" (RFC 9110 §15)
		status = http.StatusInternalServerError
	}
	if w.status != 0 || status < 200 && status != http.StatusSwitchingProtocols { // an informational answer precedes the final one
		return
	}
	w.status = status
	w.sent = w.header.Clone() // later changes are trailers
	mediaType, _, _ := mime.ParseMediaType(w.sent.Get("Content-Type"))
	if status == http.StatusOK && mediaType == "text/event-stream" {
		w.native = true
		w.abort() // it may be long until there is a body to refuse
		return
	}
	if length, err := strconv.ParseInt(w.sent.Get("Content-Length"), 10, 64); err == nil && length > 0 && length <= w.limit {
		w.body = make([]byte, 0, min(length, 1<<20)) // no more on the word of the upstream
	}
}

var errUnwanted = errors.New("poll_sse: the rest of this body is not wanted")

func (w *recorder) Write(p []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	switch {
	case w.native:
		return 0, errUnwanted
	case w.status != http.StatusOK:
		// A short body is read to its end, so that the connection can be used again.
		if w.ignored += int64(len(p)); w.ignored > 64<<10 {
			return 0, errUnwanted
		}
		return len(p), nil
	case int64(len(w.body)+len(p)) > w.limit:
		w.tooLarge, w.body = true, nil
		return 0, errUnwanted
	}
	w.body = append(w.body, p...)
	return len(p), nil
}

// sentHeader returns the header of the answer, also where a handler has answered
// with an error only.
func (w *recorder) sentHeader() http.Header {
	if w.sent == nil {
		return w.header
	}
	return w.sent
}

// Flush does nothing: nobody sees a part of the answer.
func (w *recorder) Flush() {}

func (w *recorder) truncated() bool {
	length, err := strconv.Atoi(w.sentHeader().Get("Content-Length"))
	return err == nil && length != len(w.body)
}

func (w *recorder) encoded() bool {
	coding := w.sentHeader().Get("Content-Encoding")
	return coding != "" && !strings.EqualFold(coding, "identity") // RFC 9110 §8.4.1
}
