package pollsse

import (
	"context"
	"crypto/tls"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// target is what a poll repeats of the client's request that it stands for. All of
// it is in the key of the resource, and nothing else of the client is in a poll: so
// two clients share a document only where their own requests would have been alike.
type target struct {
	tls         bool
	host        string // lower case
	uri         string // escaped path and query, as the route has rewritten them
	originalURI string // as the client sent them
	header      http.Header
	vars        map[string]string
}

// newTarget takes from r what h forwards.
func (h *Handler) newTarget(r *http.Request) target {
	t := target{
		tls:    r.TLS != nil,
		host:   strings.ToLower(r.Host),
		uri:    h.forwardedURI(r.URL.EscapedPath(), r.URL.RawQuery),
		header: make(http.Header, len(h.ForwardHeader)),
		vars:   make(map[string]string),
	}
	original := originalURL(r)
	t.originalURI = h.forwardedURI(original.EscapedPath(), original.RawQuery)
	for _, name := range h.ForwardHeader {
		if values := r.Header[name]; len(values) > 0 {
			t.header[name] = slices.Clone(values) // handlers may rewrite them in place
		}
	}
	if vars, ok := r.Context().Value(caddyhttp.VarsCtxKey).(map[string]any); ok {
		for name, v := range vars {
			if s, ok := v.(string); ok && !slices.Contains(caddyVars, name) {
				t.vars[name] = s
			}
		}
	}
	return t
}

// originalURL returns the URL of r as the client sent it, before the route rewrote it.
func originalURL(r *http.Request) *url.URL {
	if original, ok := r.Context().Value(caddyhttp.OriginalRequestCtxKey).(http.Request); ok && original.URL != nil {
		return original.URL
	}
	return r.URL
}

// isBare reports whether a poll repeats nothing of a client but host and path.
func (t *target) isBare() bool {
	return len(t.header) == 0 && len(t.vars) == 0 && !strings.Contains(t.originalURI+t.uri, "?")
}

// path returns the path that clients see.
func (t *target) path() string {
	path, _, _ := strings.Cut(t.originalURI, "?")
	return path
}

// caddyVars are the string variables that Caddy itself sets on every request; the
// others come from the route.
var caddyVars = []string{caddyhttp.ClientIPVarKey, caddyhttp.TrustedProxyVarKey, "matchers.error", "start_time", "uuid", "trace_id", "span_id"}

// key returns the same string for equal targets only.
func (t target) key() string {
	fields := []string{strconv.FormatBool(t.tls), t.host, t.uri, t.originalURI}
	for _, name := range slices.Sorted(maps.Keys(t.header)) {
		fields = append(fields, name, lengthPrefixed(t.header[name]...))
	}
	fields = append(fields, strconv.Itoa(len(t.header)))
	for _, name := range slices.Sorted(maps.Keys(t.vars)) {
		fields = append(fields, name, t.vars[name])
	}
	return lengthPrefixed(fields...)
}

// lengthPrefixed joins fields such that no others make the same string.
func lengthPrefixed(fields ...string) string {
	var b strings.Builder
	for _, f := range fields {
		b.WriteString(strconv.Itoa(len(f)))
		b.WriteByte(':')
		b.WriteString(f)
	}
	return b.String()
}

// pollAddress is where polls say that they come from: an address for documentation
// (RFC 5737 §3), so that lists of allowed addresses behind us fail closed. An empty
// one makes matchers log an error for each poll.
const pollAddress = "192.0.2.1:0"

// userAgent is what polls call themselves, unless the client's User-Agent is
// forwarded: many public APIs refuse requests without one (RFC 9110 §10.1.5).
const userAgent = "caddy-poll-sse"

// newRequest makes a poll of t, as if server had received it.
func (t target) newRequest(ctx context.Context, server *caddyhttp.Server, w http.ResponseWriter) (*http.Request, error) {
	original, err := url.ParseRequestURI(t.originalURI)
	if err != nil {
		return nil, err
	}
	current, err := url.ParseRequestURI(t.uri)
	if err != nil {
		return nil, err
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "/", http.NoBody)
	if err != nil {
		return nil, err
	}
	r.URL = original
	r.RequestURI = t.originalURI
	r.Host = t.host
	r.RemoteAddr = pollAddress
	if t.tls {
		r.TLS = &tls.ConnectionState{HandshakeComplete: true}
	}
	for name, values := range t.header {
		r.Header[name] = slices.Clone(values)
	}
	if r.Header.Get("User-Agent") == "" {
		r.Header.Set("User-Agent", userAgent)
	}
	r.Header.Set("Accept", "application/json")

	repl := caddy.NewReplacer()
	r = caddyhttp.PrepareRequest(r, repl, w, server)
	for name, v := range t.vars {
		caddyhttp.SetVar(r.Context(), name, v)
	}
	r.URL = current // what came before has seen the original one
	r.RequestURI = t.uri
	return r, nil
}

// forwardedURI returns path and query without our own parameters and those that h
// does not forward.
func (h *Handler) forwardedURI(escapedPath, rawQuery string) string {
	if escapedPath == "" || escapedPath[0] != '/' {
		escapedPath = "/" + escapedPath
	}
	var kept []string
	for p := range parameters(rawQuery) {
		if !p.isOwn() && (h.Query[0] == "*" || h.Query[0] != "none" && slices.Contains(h.Query, p.name)) {
			kept = append(kept, p.raw)
		}
	}
	query := strings.Join(kept, "&")
	if query == "" {
		return escapedPath
	}
	return escapedPath + "?" + query
}
