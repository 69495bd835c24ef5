package pollsse

import (
	"context"
	"net/http"
	"net/url"
	"sync"

	"go.opentelemetry.io/contrib/propagators/autoprop"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
)

// propagator is the one that Caddy's tracing uses.
var propagator = sync.OnceValue(func() propagation.TextMapPropagator { return autoprop.NewTextMapPropagator() })

// startSpan begins the span of a poll, where the route has tracing. It has no parent: the
// poll is for many clients.
func (src *source) startSpan(ctx context.Context, t *target) (context.Context, trace.Span) {
	if src.tracing == nil {
		return ctx, trace.SpanFromContext(ctx)
	}
	return src.tracing.Tracer("github.com/pollsse/caddy-poll-sse").Start(ctx, "poll", trace.WithSpanKind(trace.SpanKindClient),
		trace.WithAttributes(attribute.String("http.request.method", http.MethodGet), attribute.String("server.address", (&url.URL{Host: t.host}).Hostname()), attribute.String("url.path", t.path())))
}

// propagate tells the upstream of the span.
func propagate(ctx context.Context, header http.Header) {
	if trace.SpanContextFromContext(ctx).IsValid() {
		propagator().Inject(ctx, propagation.HeaderCarrier(header))
	}
}

// endSpan ends the span of a poll. That nobody waited for its answer is no error.
func endSpan(span trace.Span, result pollResult, unwanted bool) {
	span.SetAttributes(attribute.String("poll_sse.result", string(result.kind)), attribute.Int("poll_sse.size", result.size))
	if result.status != 0 {
		span.SetAttributes(attribute.Int("http.response.status_code", result.status))
	}
	if !result.good() && !unwanted {
		span.SetStatus(codes.Error, result.cause)
	}
	span.End()
}
