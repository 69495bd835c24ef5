package pollsse

import (
	"errors"

	"github.com/caddyserver/caddy/v2"
	"github.com/prometheus/client_golang/prometheus"
)

// The collectors live as long as the process, while Caddy makes a new registry for
// each configuration.
var (
	streamsOpen = prometheus.NewGauge(prometheus.GaugeOpts{
		Namespace: "caddy", Subsystem: "poll_sse", Name: "streams",
		Help: "Event streams that are open.",
	})
	pollsTotal = prometheus.NewCounterVec(prometheus.CounterOpts{
		Namespace: "caddy", Subsystem: "poll_sse", Name: "polls_total",
		Help: "Polls, by result: good, unchanged, not_modified, rejected, failed or native.",
	}, []string{"result"})
	resumesTotal = prometheus.NewCounterVec(prometheus.CounterOpts{
		Namespace: "caddy", Subsystem: "poll_sse", Name: "resumes_total",
		Help: "How streams found their place: new, held, digest, smaller (held, but the snapshot is smaller), snapshot (not held), or lagging (lost it later).",
	}, []string{"outcome"})
	streamEndsTotal = prometheus.NewCounterVec(prometheus.CounterOpts{
		Namespace: "caddy", Subsystem: "poll_sse", Name: "stream_ends_total",
		Help: "Streams that have ended, by reason: client_left, age, write_failed, withdrawn, or exit.",
	}, []string{"reason"})
	longPollsTotal = prometheus.NewCounterVec(prometheus.CounterOpts{
		Namespace: "caddy", Subsystem: "poll_sse", Name: "long_polls_total",
		Help: "Long-polls answered, by status: 200 with a document, or 304 where there was no other.",
	}, []string{"status"})
	refusalsTotal = prometheus.NewCounterVec(prometheus.CounterOpts{
		Namespace: "caddy", Subsystem: "poll_sse", Name: "refusals_total",
		Help: "Clients told to come back later, by the limit that kept them out.",
	}, []string{"limit"})
)

func registerMetrics(ctx caddy.Context) error {
	for _, c := range []prometheus.Collector{streamsOpen, streamEndsTotal, longPollsTotal, pollsTotal, resumesTotal, refusalsTotal} {
		err := ctx.GetMetricsRegistry().Register(c)
		var again prometheus.AlreadyRegisteredError // by another handler of this configuration
		if err != nil && !errors.As(err, &again) {
			return err
		}
	}
	return nil
}
