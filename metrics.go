package pollsse

import (
	"errors"

	"github.com/caddyserver/caddy/v2"
	"github.com/prometheus/client_golang/prometheus"
)

// The collectors live as long as the process, while Caddy makes a new registry for
// each configuration. Their labels have few values, none of which is a text of a client's.
var (
	streamsOpen   = gauge("streams", "Event streams that are open.")
	resourcesOpen = gauge("resources", "Resources that are polled, by state of their upstream: new (not polled yet), live, or stale (the newest poll was not good).", "state")

	pollsTotal   = counter("polls_total", "Polls, by result: changed, unchanged, not_modified, native (the upstream streams by itself), rejected (no good document) or failed; the latter two by cause.", "result", "cause")
	pollDuration = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Namespace: "caddy", Subsystem: "poll_sse", Name: "poll_duration_seconds",
		Help:    "How long polls took, until they were answered or given up.",
		Buckets: prometheus.DefBuckets,
	}, []string{"server"})

	eventsTotal        = counter("events_total", "Events sent to streams, by format of the stream (patch, full, merge) and content encoding (identity, gzip).", "format", "encoding")
	sentBytesTotal     = counter("sent_bytes_total", "Bytes sent to streams, by format and content encoding.", "format", "encoding")
	pollingBytesTotal  = counter("polling_bytes_total", "Bytes that the clients of open streams would have been sent, had each of them polled: the size of the document for each stream and each good poll.")
	resumesTotal       = counter("resumes_total", "How streams found their place: new (the client had none), held, digest (by the digest of the document), smaller (held, but the snapshot is smaller), or snapshot (not held).", "outcome")
	slowSnapshotsTotal = counter("slow_snapshots_total", "Snapshots sent to open streams in place of events that came faster than they were sent, by place of the stream: held (but the snapshot is smaller), or evicted.", "place")
	evictionsTotal     = counter("evictions_total", "What gave way to a limit: an event to history, a view to max_views, a resource to max_pollers.", "kind")
	streamEndsTotal    = counter("stream_ends_total", "Streams that have ended, by reason: client_left, age, drain, write_failed, withdrawn, rollback, or exit.", "reason")
	longPollsTotal     = counter("long_polls_total", "Long-polls answered, by status: 200 with a document, or 304 where there was no other.", "status")
	refusalsTotal      = counter("refusals_total", "Clients told to come back later, by the limit that kept them out.", "limit")
)

var collectors = []prometheus.Collector{
	streamsOpen, resourcesOpen, pollsTotal, pollDuration, eventsTotal, sentBytesTotal, pollingBytesTotal,
	resumesTotal, slowSnapshotsTotal, evictionsTotal, streamEndsTotal, longPollsTotal, refusalsTotal,
}

func gauge(name, help string, labels ...string) *prometheus.GaugeVec {
	return prometheus.NewGaugeVec(prometheus.GaugeOpts{Namespace: "caddy", Subsystem: "poll_sse", Name: name, Help: help},
		append([]string{"server"}, labels...))
}

func counter(name, help string, labels ...string) *prometheus.CounterVec {
	return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "caddy", Subsystem: "poll_sse", Name: name, Help: help},
		append([]string{"server"}, labels...))
}

func registerMetrics(ctx caddy.Context) error {
	for _, c := range collectors {
		err := ctx.GetMetricsRegistry().Register(c)
		var again prometheus.AlreadyRegisteredError // by another handler of this configuration
		if err != nil && !errors.As(err, &again) {
			return err
		}
	}
	return nil
}
