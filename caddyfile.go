package pollsse

import (
	"fmt"
	"math"
	"strconv"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/dustin/go-humanize"
)

func init() {
	httpcaddyfile.RegisterDirective("poll_sse", parseDirective)
	// Whatever guards or rewrites a request runs before us; what answers it, after.
	httpcaddyfile.RegisterDirectiveOrder("poll_sse", httpcaddyfile.After, "encode")
}

// parseDirective returns the route of the handler and, where its matcher may not let requests
// for its files pass, one for each of them.
func parseDirective(h httpcaddyfile.Helper) (routes []httpcaddyfile.ConfigValue, err error) {
	h.Next() // consume the directive name
	matcher, err := h.ExtractMatcherSet()
	if err != nil {
		return nil, err
	}
	handler := new(Handler)
	if err := handler.UnmarshalCaddyfile(h.Dispenser); err != nil {
		return nil, err
	}
	if matcher != nil && handler.Client != "" {
		routes = append(routes, fileRoute(h, handler.Client, &Handler{Client: handler.Client})...)
	}
	if matcher != nil && handler.Inspect != "" {
		routes = append(routes, fileRoute(h, handler.Inspect, &Handler{Inspect: handler.Inspect})...)
	}
	return append(routes, h.NewRoute(matcher, handler)...), nil
}

// fileRoute returns the route of a handler that serves a file at path.
func fileRoute(h httpcaddyfile.Helper, path string, handler *Handler) []httpcaddyfile.ConfigValue {
	matcher := caddy.ModuleMap{
		"path": caddyconfig.JSON(caddyhttp.MatchPath{path}, nil),                                // by which routes are sorted
		"vars": caddyconfig.JSON(caddyhttp.VarsMatcher{"{http.request.uri.path}": {path}}, nil), // no other spelling
	}
	return h.NewRoute(matcher, handler)
}

// UnmarshalCaddyfile sets up the handler from Caddyfile tokens. Syntax:
//
//	poll_sse [<matcher>] {
//		interval        <duration> [<max>]      # 2s
//		timeout         <duration>              # 10s, one poll
//		linger          <duration>              # 30s
//		format          patch|full|merge        # patch
//		event           <name>                  # unnamed
//		select          <pointer>               # whole document; RFC 6901
//		selectable      <pattern...>            # what clients may ask for with sse_select; none
//		ignore          <pointer...>            # volatile members, `*` matches any member or index
//		key             <pointer> <member>      # identity of an array's items; default: `id` where every item has a unique one
//		query           <name...>|*|none        # which query parameters are forwarded; *
//		forward_header  <name...>
//		history         <events> [<size>]       # 1000 8MiB
//		heartbeat       <duration>              # 15s
//		retry           <min> [<max>]           # 1s 4s
//		drain           <duration>              # 3s
//		max_age         <duration>|off          # 1h
//		max_pollers     <n>                     # 1000
//		max_streams     <n>                     # 100000
//		max_views       <n>                     # 32, per resource
//		max_body        <size>                  # 16MiB
//		compress        gzip|off                # gzip
//		client          <path>                  # of the client module; none
//		inspect         <path>                  # of the inspector; none
//	}
//
// Only key may be repeated, with another pointer.
func (h *Handler) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // consume the directive name
	if d.NextArg() {
		return d.Errf("unexpected %q: poll_sse takes one matcher, its options stand in a block, and it polls what answers behind it in the route, such as reverse_proxy", d.Val())
	}
	seen := make(map[string]bool)
	for d.NextBlock(0) {
		name := d.Val()
		if seen[name] && name != "key" {
			return d.Errf("%s is already specified", name)
		}
		seen[name] = true
		if err := h.unmarshalSubdirective(name, d); err != nil {
			return err
		}
		if d.NextArg() {
			return d.ArgErr()
		}
		if d.NextBlock(1) {
			return d.Errf("%s takes no block", name)
		}
		// The rest is checked by Provision, which sees JSON configurations too, but
		// here an error can name its place.
		checked := *h
		checked.setDefaults()
		if err := checked.check(); err != nil {
			return d.Err(err.Error())
		}
	}
	return nil
}

func (h *Handler) unmarshalSubdirective(name string, d *caddyfile.Dispenser) error {
	switch name {
	case "interval":
		return durations(d, &h.Interval, &h.MaxInterval)
	case "timeout":
		return duration(d, &h.Timeout)
	case "linger":
		return duration(d, &h.Linger)
	case "format":
		return word(d, &h.Format)
	case "event":
		return word(d, &h.Event)
	case "select":
		if !d.NextArg() { // "" is one
			return d.ArgErr()
		}
		h.Select = d.Val()
	case "selectable":
		return words(d, &h.Selectable)
	case "ignore":
		return words(d, &h.Ignore)
	case "key":
		var k arrayKey
		if !d.Args(&k.Pointer, &k.Member) {
			return d.Err("key takes the pointer of an array and a member of its items, such as key /prices id")
		}
		h.Key = append(h.Key, k)
	case "query":
		return words(d, &h.Query)
	case "forward_header":
		return words(d, &h.ForwardHeader)
	case "history":
		if err := count(d, &h.History.Events); err != nil {
			return fmt.Errorf("history takes a number of events, such as 1000, and a size if you like: %w", err)
		}
		if d.CountRemainingArgs() > 0 {
			return size(d, &h.History.Size)
		}
	case "heartbeat":
		return duration(d, &h.Heartbeat)
	case "retry":
		return durations(d, &h.Retry.Min, &h.Retry.Max)
	case "drain":
		return duration(d, &h.Drain)
	case "max_age":
		if !d.NextArg() {
			return d.ArgErr()
		}
		if d.Val() == "off" {
			h.MaxAge = -1
			return nil
		}
		if err := parseDuration(d, &h.MaxAge); err != nil {
			return fmt.Errorf("max_age takes off or a duration: %w", err)
		}
	case "max_pollers":
		return count(d, &h.MaxPollers)
	case "max_streams":
		return count(d, &h.MaxStreams)
	case "max_views":
		return count(d, &h.MaxViews)
	case "max_body":
		return size(d, &h.MaxBody)
	case "compress":
		return word(d, &h.Compress)
	case "client":
		return word(d, &h.Client)
	case "inspect":
		return word(d, &h.Inspect)
	default:
		return d.Errf("unknown subdirective %q", name)
	}
	return nil
}

// The functions below read one argument. Zero would mean the default in JSON, so
// here it is an error.

func word(d *caddyfile.Dispenser, field *string) error {
	if !d.NextArg() || d.Val() == "" {
		return d.ArgErr()
	}
	*field = d.Val()
	return nil
}

func words(d *caddyfile.Dispenser, field *[]string) error {
	*field = d.RemainingArgs()
	if len(*field) == 0 {
		return d.ArgErr()
	}
	return nil
}

// durations reads a second one where there is one.
func durations(d *caddyfile.Dispenser, first, second *caddy.Duration) error {
	if err := duration(d, first); err != nil || d.CountRemainingArgs() == 0 {
		return err
	}
	return duration(d, second)
}

func duration(d *caddyfile.Dispenser, field *caddy.Duration) error {
	if !d.NextArg() {
		return d.ArgErr()
	}
	return parseDuration(d, field)
}

// parseDuration reads the argument that is at hand.
func parseDuration(d *caddyfile.Dispenser, field *caddy.Duration) error {
	v, err := caddy.ParseDuration(d.Val())
	if err != nil {
		return d.Errf("%q is not a duration such as 2s", d.Val())
	}
	if v <= 0 {
		return d.Errf("%s is not a positive duration", d.Val())
	}
	*field = caddy.Duration(v)
	return nil
}

func count(d *caddyfile.Dispenser, field *int) error {
	if !d.NextArg() {
		return d.ArgErr()
	}
	n, err := strconv.Atoi(d.Val())
	if err != nil || n <= 0 {
		return d.Errf("%s is not a positive number", d.Val())
	}
	*field = n
	return nil
}

func size(d *caddyfile.Dispenser, field *int64) error {
	if !d.NextArg() {
		return d.ArgErr()
	}
	n, err := humanize.ParseBytes(d.Val())
	if err != nil {
		return d.Errf("%q is not a size such as 8MiB", d.Val())
	}
	if n == 0 || n > math.MaxInt64 {
		return d.Errf("%s is not a positive size", d.Val())
	}
	*field = int64(n)
	return nil
}

// Interface guard.
var _ caddyfile.Unmarshaler = (*Handler)(nil)
