package integration

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/pollsse/caddy-poll-sse/internal/promise"
	"github.com/pollsse/caddy-poll-sse/internal/sse"
)

// watcher is a client of TestPromise. It connects again and again, each time in
// another way, until the documents do not change any longer and it is up to date.
type watcher struct {
	*world
	rand     *rand.Rand
	knows    *promise.Client
	protocol string
	path     string
	format   string
	pointer  string
	polls    bool     // long
	trace    []string // what it has seen last
}

func newWatcher(world *world, number int) *watcher {
	w := &watcher{world: world, rand: rand.New(rand.NewPCG(world.seed, uint64(1000+number))), knows: world.oracle.NewClient()}
	w.protocol = w.protocols[number%len(w.protocols)]
	w.polls = number%8 == 7
	w.aim()
	return w
}

// aim draws what is followed.
func (w *watcher) aim() {
	w.knows.Forget()
	w.path, w.pointer = w.world.path(w.rand), promise.Pointer(w.rand)
	w.format = pick(w.rand, "patch", "patch", "merge", "full")
	if w.polls {
		w.format = "patch"
	}
}

func (w *watcher) note(format string, args ...any) {
	w.trace = append(w.trace, fmt.Sprintf(format, args...))
	w.trace = w.trace[max(0, len(w.trace)-40):]
}

func (w *watcher) run() error {
	for !w.done.Load() {
		final := w.frozen.Load()
		if !final {
			w.changeMind()
		}
		upToDate, err := w.connectOnce(final)
		if w.all.Err() != nil {
			return fmt.Errorf("%v is not the last state (%v)", w.knows, err)
		}
		if upToDate || err != nil {
			return err
		}
		w.cuts.Add(1)
		time.Sleep(time.Duration(w.rand.IntN(1<<w.rand.IntN(8))) * time.Millisecond) // away
	}
	return nil
}

// changeMind now and then follows something else, or the same in another format.
func (w *watcher) changeMind() {
	switch w.rand.IntN(20) {
	case 0:
		w.aim()
	case 1:
		w.knows.Forget()
	case 2, 3:
		if !w.polls {
			w.format = pick(w.rand, "patch", "merge", "full")
		}
	}
}

// connectOnce makes a request, and reports whether the client is up to date.
func (w *watcher) connectOnce(final bool) (upToDate bool, err error) {
	stops := w.stops.Load()
	client, base, life := w.world.client(w.protocol)
	ctx, cancel := context.WithCancel(life)
	defer cancel()
	silence := time.AfterFunc(patience/2, cancel)
	defer silence.Stop()
	response, err := client.Do(w.request(ctx, base))
	if err != nil {
		if ctx.Err() != nil && life.Err() == nil {
			return false, errSilent
		}
		return false, nil // the connection was on its way out
	}
	defer response.Body.Close()
	w.note("%s with id %q: %s", response.Request.URL, response.Request.Header.Get("Last-Event-ID"), response.Status)
	w.knows.Follow(pollerOf(response.Request.URL.Host, response.Header.Get("X-Config"), w.path), w.format, w.pointer)
	body := &watched{response.Body, func() error {
		silence.Reset(patience / 2)
		if w.frozen.Load() && w.knows.IsUpToDate() {
			return errUpToDate
		}
		return nil
	}}
	if w.polls {
		err = w.answer(response, body)
	} else {
		err = w.follow(response, body, final)
	}
	var found wrong
	switch {
	case errors.As(err, &found): // whatever else may have happened
		return false, err
	case errors.Is(err, errUpToDate):
		return true, nil
	case err == nil, errors.Is(err, errCut), errors.Is(err, io.EOF), life.Err() != nil, w.hasStopped(stops):
		return final && w.polls && w.knows.IsUpToDate(), nil
	case ctx.Err() != nil:
		return false, errSilent
	}
	return false, err
}

var errUpToDate = errors.New("up to date")

// wrong is what is found wrong with what has come, other than that it has ceased.
type wrong struct{ error }

// request returns the next request, made with what the client knows.
func (w *watcher) request(ctx context.Context, base string) *http.Request {
	query := url.Values{}
	if w.pointer != "" {
		query.Set("sse_select", w.pointer)
	}
	header := make(http.Header)
	if w.polls {
		header.Set("Prefer", "wait=1")
		if w.knows.ID != "" {
			header.Set("If-None-Match", `W/"`+w.knows.ID+`"`)
		}
	} else {
		query.Set("sse_format", w.format)
		header.Set("Accept", "text/event-stream")
		header.Set("Accept-Encoding", pick(w.rand, "gzip", "identity"))
		if w.knows.ID != "" && w.rand.IntN(4) == 0 {
			query.Set("lastEventId", w.knows.ID)
		} else if w.knows.ID != "" {
			header.Set("Last-Event-ID", w.knows.ID)
		}
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, base+w.path+"?"+query.Encode(), nil)
	if err != nil {
		panic(err)
	}
	request.Header = header
	return request
}

// answer checks the answer to a long-poll.
func (w *watcher) answer(response *http.Response, body io.Reader) error {
	id, ok := strings.CutPrefix(response.Header.Get("ETag"), `W/"`)
	if response.StatusCode != http.StatusOK || !ok {
		return nil
	}
	text, err := io.ReadAll(body)
	if err != nil {
		return err
	}
	w.events.Add(1)
	if err := w.knows.Whole(string(text), strings.TrimSuffix(id, `"`)); err != nil {
		return wrong{fmt.Errorf("%w in %.200s", err, text)}
	}
	return nil
}

// follow checks the events of a stream until it ends, or is cut at a random byte.
func (w *watcher) follow(response *http.Response, body io.Reader, final bool) error {
	if response.Header.Get("Content-Type") != "text/event-stream; charset=utf-8" {
		if response.StatusCode != http.StatusBadGateway && response.Header.Get("X-Upstream") == "" {
			return wrong{fmt.Errorf("a stream is answered with %s, %s", response.Status, response.Header.Get("Content-Type"))}
		}
		return nil // the first poll has failed so that the request passed
	}
	budget := math.MaxInt
	if !final && w.rand.IntN(4) > 0 {
		budget = w.rand.IntN(8 << w.rand.IntN(14))
	}
	pause := 0
	if w.rand.IntN(6) == 0 {
		pause = w.rand.IntN(300)
	}
	stream := sse.NewReader(decoded(response, &budgetReader{body, budget}))
	for {
		e, err := stream.Next()
		if err != nil {
			w.note("%v", err)
			return err
		}
		w.note("  %s %s %.300s", e.ID, e.Type, e.Data)
		if want := w.world.event; e.Type != want && !(w.format == "merge" && e.Type == "snapshot") {
			return wrong{fmt.Errorf("event of type %q", e.Type)}
		}
		if err := w.knows.Event(e); err != nil {
			return wrong{err}
		}
		w.events.Add(1)
		if pause > 0 && w.rand.IntN(10) == 0 && !w.frozen.Load() {
			time.Sleep(time.Duration(pause) * time.Millisecond)
		}
	}
}

// watched is a body of which each read, also of a heartbeat, is an occasion to end.
type watched struct {
	io.Reader
	heard func() error
}

func (w *watched) Read(p []byte) (int, error) {
	n, err := w.Reader.Read(p)
	if over := w.heard(); err == nil {
		err = over
	}
	return n, err
}
