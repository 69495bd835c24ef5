package pollsse

import (
	"net/http"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
)

// tally is what metrics and logs are told of one stream.
type tally struct {
	server string
	resume string // how the stream found its place, "" before it has
	events int
	bytes  int64

	eventsTotal prometheus.Counter
	bytesTotal  prometheus.Counter
}

func newTally(server, format, encoding string) tally {
	return tally{
		server:      server,
		eventsTotal: eventsTotal.WithLabelValues(server, format, encoding),
		bytesTotal:  sentBytesTotal.WithLabelValues(server, format, encoding),
	}
}

// found notes how the stream has found its place at first.
func (t *tally) found(resume string) {
	t.resume = resume
	resumesTotal.WithLabelValues(t.server, resume).Inc()
}

// slow notes a snapshot in place of events that were pending.
func (t *tally) slow(place string) { slowSnapshotsTotal.WithLabelValues(t.server, place).Inc() }

// sent notes that further events were written, and how many bytes that are in all.
func (t *tally) sent(events int, bytes int64) {
	t.eventsTotal.Add(float64(events))
	t.bytesTotal.Add(float64(bytes - t.bytes))
	t.events, t.bytes = t.events+events, bytes
}

// field tells of the stream in logs, when it has ended.
func (t *tally) field(end string) zap.Field {
	return zap.Dict("stream", zap.Int("events", t.events), zap.Int64("bytes", t.bytes), zap.String("resume", t.resume), zap.String("end", end))
}

// addLogField adds a field to the line that the access log has of r.
func addLogField(r *http.Request, field zap.Field) {
	if extra, ok := r.Context().Value(caddyhttp.ExtraLogFieldsCtxKey).(*caddyhttp.ExtraLogFields); ok {
		extra.Set(field)
	}
}
