package pollsse

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
)

func init() {
	caddy.RegisterModule(adminAPI{})
}

// adminAPI tells operators what is polled, and lets them have it polled at once:
//
//	GET  /poll_sse/resources
//	POST /poll_sse/poll?host=<host>&path=<path>&id=<id>
//
// What was forwarded of clients, but for the query, is in neither.
type adminAPI struct{}

// CaddyModule returns the Caddy module information.
func (adminAPI) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "admin.api.poll_sse",
		New: func() caddy.Module { return adminAPI{} },
	}
}

// Routes returns the routes of the API.
func (adminAPI) Routes() []caddy.AdminRoute {
	return []caddy.AdminRoute{
		{Pattern: "/poll_sse/resources", Handler: caddy.AdminHandlerFunc(serveResources)},
		{Pattern: "/poll_sse/poll", Handler: caddy.AdminHandlerFunc(servePoll)},
	}
}

// resourceInfo is what operators are told about a resource. Durations are in
// milliseconds, sizes in bytes.
type resourceInfo struct {
	ID       uint64     `json:"id"`     // in this process
	Server   string     `json:"server"` // the name of Caddy's server
	Host     string     `json:"host"`
	Path     string     `json:"path"` // as clients ask for it
	Query    string     `json:"query"`
	Age      int64      `json:"age"`
	State    string     `json:"state"` // new, live or stale
	Since    time.Time  `json:"since"`
	Interval int64      `json:"interval"`
	LastPoll *pollInfo  `json:"last_poll"` // null before the first
	Size     int        `json:"size"`      // of the document as the upstream sends it
	Streams  int64      `json:"streams"`
	Views    []viewInfo `json:"views"`
}

// pollInfo is what operators are told about a poll.
type pollInfo struct {
	At       time.Time `json:"at"`
	Result   pollKind  `json:"result"`
	Cause    string    `json:"cause,omitempty"`  // where it was not good
	Status   int       `json:"status,omitempty"` // of the answer, where there was one
	Duration float64   `json:"duration"`
}

// viewInfo is what operators are told about a view.
type viewInfo struct {
	Format  string `json:"format"`
	Select  string `json:"select"`
	Clients int    `json:"clients"` // streams and long-polls
	Events  int    `json:"events"`  // in the history
	Bytes   int64  `json:"bytes"`   // in the history
}

// resourceIDs counts the resources of the process.
var resourceIDs atomic.Uint64

// info describes the resource.
func (r *resource) info() resourceInfo {
	t := &r.poller.target
	_, query, _ := strings.Cut(t.originalURI, "?")
	r.mu.Lock()
	defer r.mu.Unlock()
	info := resourceInfo{
		ID: r.id, Server: r.server, Host: t.host, Path: t.path(), Query: query, Age: time.Since(r.created).Milliseconds(),
		State: stateNew, Since: r.status.Since, Interval: r.status.Interval,
		Size: r.last.size, Streams: r.open.Load(), Views: make([]viewInfo, 0, len(r.views)),
	}
	if r.lastBy != 0 {
		info.State = r.status.State
		info.LastPoll = &pollInfo{r.lastAt, r.last.kind, r.last.cause, r.last.status, milliseconds(r.last.duration)}
	}
	for w, v := range r.views {
		events, bytes := v.log.held()
		info.Views = append(info.Views, viewInfo{w.format, w.pointer, v.streams, events, bytes})
	}
	slices.SortFunc(info.Views, func(a, b viewInfo) int {
		return cmp.Or(cmp.Compare(a.Select, b.Select), cmp.Compare(a.Format, b.Format))
	})
	return info
}

// allResources returns the resources of all handlers.
func allResources() (all []*resource) {
	resourcePools.Range(func(_, pool any) bool {
		all = append(all, pool.(*resourcePool).resources()...)
		return true
	})
	return all
}

func serveResources(w http.ResponseWriter, r *http.Request) error {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		return methodNotAllowed(w, "GET, HEAD")
	}
	return writeResources(w, http.StatusOK, allResources())
}

func writeResources(w http.ResponseWriter, status int, resources []*resource) error {
	infos := make([]resourceInfo, len(resources))
	for i, r := range resources {
		infos[i] = r.info()
	}
	slices.SortFunc(infos, func(a, b resourceInfo) int {
		return cmp.Or(cmp.Compare(a.Host, b.Host), cmp.Compare(a.Path, b.Path), cmp.Compare(a.Query, b.Query), cmp.Compare(a.ID, b.ID))
	})
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	encoder := json.NewEncoder(w)
	encoder.SetEscapeHTML(false) // queries have &
	return encoder.Encode(infos)
}

// servePoll makes the resources that have all of the given host, path and id poll at
// once, unless the upstream has asked to be left alone, and answers with them as they
// are now.
func servePoll(w http.ResponseWriter, r *http.Request) error {
	if r.Method != http.MethodPost {
		return methodNotAllowed(w, http.MethodPost)
	}
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return badRequest(err)
	}
	for name, values := range query {
		if !slices.Contains([]string{"host", "path", "id"}, name) || len(values) > 1 {
			return badRequest(fmt.Errorf("unknown or repeated parameter %q: there are host, path and id", name))
		}
	}
	if len(query) == 0 {
		return badRequest(errors.New("say what to poll: by host, path or id"))
	}
	resources := slices.DeleteFunc(allResources(), func(r *resource) bool {
		t := &r.poller.target
		return query.Has("host") && !strings.EqualFold(query.Get("host"), t.host) ||
			query.Has("path") && !samePath(query.Get("path"), t.path()) ||
			query.Has("id") && query.Get("id") != strconv.FormatUint(r.id, 10)
	})
	if len(resources) == 0 {
		return caddy.APIError{HTTPStatus: http.StatusNotFound, Err: errors.New("nothing like that is polled")}
	}
	for _, r := range resources {
		r.pollNow()
	}
	return writeResources(w, http.StatusAccepted, resources)
}

// samePath reports whether path is the escaped one, escaped or not.
func samePath(path, escaped string) bool {
	unescaped, err := url.PathUnescape(escaped)
	return path == escaped || err == nil && path == unescaped
}

func badRequest(err error) error {
	return caddy.APIError{HTTPStatus: http.StatusBadRequest, Err: err}
}

func methodNotAllowed(w http.ResponseWriter, allowed string) error {
	w.Header().Set("Allow", allowed) // RFC 9110 §15.5.6
	return caddy.APIError{HTTPStatus: http.StatusMethodNotAllowed, Err: errors.New("method not allowed")}
}

// Interface guard.
var _ caddy.AdminRouter = adminAPI{}
