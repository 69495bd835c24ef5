package integration

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/pollsse/caddy-poll-sse/internal/promise"
	"github.com/pollsse/caddy-poll-sse/internal/sse"
)

// follower is a client of TestPromise. It connects again and again, each time in
// another way, until the documents do not change any longer and it is up to date.
type follower struct {
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

func newFollower(w *world, number int) *follower {
	f := &follower{world: w, rand: rand.New(rand.NewPCG(w.seed, uint64(1000+number))), knows: w.oracle.NewClient()}
	f.protocol = w.protocols[number%len(w.protocols)]
	f.polls = number%8 == 7
	f.aim()
	return f
}

// aim draws what is followed.
func (f *follower) aim() {
	f.knows.Forget()
	f.path = f.world.path(f.rand)
	f.format = pick(f.rand, "patch", "patch", "merge", "full")
	k := f.walk(f.path)
	k.mu.Lock()
	defer k.mu.Unlock()
	f.pointer = k.doc.Pointer(f.rand)
	if f.polls {
		f.format = "patch"
	}
}

func (f *follower) note(format string, args ...any) {
	f.trace = append(f.trace, fmt.Sprintf(format, args...))
	f.trace = f.trace[max(0, len(f.trace)-40):]
}

func (f *follower) run() error {
	for !f.done.Load() {
		final := f.frozen.Load()
		if !final {
			f.changeMind()
		}
		upToDate, err := f.connectOnce(final)
		if f.all.Err() != nil {
			return fmt.Errorf("%v is not the last state (%v)", f.knows, err)
		}
		if upToDate || err != nil {
			return err
		}
		f.cuts.Add(1)
		time.Sleep(time.Duration(f.rand.IntN(1<<f.rand.IntN(8))) * time.Millisecond) // away
	}
	return nil
}

// changeMind now and then follows something else, or the same in another format.
func (f *follower) changeMind() {
	switch f.rand.IntN(20) {
	case 0:
		f.aim()
	case 1:
		f.knows.Forget()
	case 2, 3:
		if !f.polls {
			f.format = pick(f.rand, "patch", "merge", "full")
		}
	}
}

// connectOnce makes a request, and reports whether the client is up to date.
func (f *follower) connectOnce(final bool) (upToDate bool, err error) {
	stops := f.stops.Load()
	client, base, life := f.world.client(f.protocol)
	ctx, cancel := context.WithCancel(life)
	defer cancel()
	silence := time.AfterFunc(patience/2, cancel)
	defer silence.Stop()
	response, err := client.Do(f.request(ctx, base))
	if err != nil {
		if ctx.Err() != nil && life.Err() == nil {
			return false, errSilent
		}
		return false, nil // the connection was on its way out
	}
	defer response.Body.Close()
	f.note("%s with id %q: %s", response.Request.URL, response.Request.Header.Get("Last-Event-ID"), response.Status)
	f.knows.Follow(pollerOf(response.Request.URL.Host, response.Header.Get("X-Config"), f.path), f.format, f.pointer)
	body := &watched{response.Body, func() error {
		silence.Reset(patience / 2)
		if f.frozen.Load() && f.knows.IsUpToDate() {
			return errUpToDate
		}
		return nil
	}}
	if f.polls {
		err = f.answer(response, body)
	} else {
		err = f.follow(response, body, final)
	}
	switch {
	case errors.Is(err, errUpToDate):
		return true, nil
	case err == nil, errors.Is(err, errCut), errors.Is(err, io.EOF), life.Err() != nil, f.stops.Load() != stops && isTransport(err):
		return final && f.polls && f.knows.IsUpToDate(), nil
	case ctx.Err() != nil:
		return false, errSilent
	}
	return false, err
}

var errUpToDate = errors.New("up to date")

// wrong is what is found wrong with what has come, other than that it has ceased.
type wrong struct{ error }

func isTransport(err error) bool {
	var w wrong
	return !errors.As(err, &w)
}

// request returns the next request, made with what the client knows.
func (f *follower) request(ctx context.Context, base string) *http.Request {
	query := url.Values{}
	if f.pointer != "" {
		query.Set("sse_select", f.pointer)
	}
	header := make(http.Header)
	if f.polls {
		header.Set("Prefer", "wait=1")
		if f.knows.ID != "" {
			header.Set("If-None-Match", `W/"`+f.knows.ID+`"`)
		}
	} else {
		query.Set("sse_format", f.format)
		header.Set("Accept", "text/event-stream")
		header.Set("Accept-Encoding", pick(f.rand, "gzip", "identity"))
		if f.knows.ID != "" && f.rand.IntN(4) == 0 {
			query.Set("lastEventId", f.knows.ID)
		} else if f.knows.ID != "" {
			header.Set("Last-Event-ID", f.knows.ID)
		}
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, base+f.path+"?"+query.Encode(), nil)
	if err != nil {
		panic(err)
	}
	request.Header = header
	return request
}

// answer checks the answer to a long-poll.
func (f *follower) answer(response *http.Response, body io.Reader) error {
	id, ok := strings.CutPrefix(response.Header.Get("ETag"), `W/"`)
	if response.StatusCode != http.StatusOK || !ok {
		return nil
	}
	text, err := io.ReadAll(body)
	if err != nil {
		return err
	}
	f.events.Add(1)
	if err := f.knows.Whole(string(text), strings.TrimSuffix(id, `"`)); err != nil {
		return wrong{fmt.Errorf("%w in %.200s", err, text)}
	}
	return nil
}

// follow checks the events of a stream until it ends, or is cut at a random byte.
func (f *follower) follow(response *http.Response, body io.Reader, final bool) error {
	if response.Header.Get("Content-Type") != "text/event-stream; charset=utf-8" {
		if response.StatusCode != http.StatusBadGateway && response.Header.Get("X-Upstream") == "" {
			return wrong{fmt.Errorf("a stream is answered with %s, %s", response.Status, response.Header.Get("Content-Type"))}
		}
		return nil // the first poll has failed so that the request passed
	}
	budget := 1 << 40
	if !final && f.rand.IntN(4) > 0 {
		budget = f.rand.IntN(8 << f.rand.IntN(14))
	}
	pause := 0
	if f.rand.IntN(6) == 0 {
		pause = f.rand.IntN(300)
	}
	stream := sse.NewReader(decoded(response, &budgetReader{body, budget}))
	for {
		e, err := stream.Next()
		if err != nil {
			f.note("%v", err)
			return err
		}
		f.note("  %s %s %.300s", e.ID, e.Type, e.Data)
		if want := f.world.event; e.Type != want && !(f.format == "merge" && e.Type == "snapshot") {
			return wrong{fmt.Errorf("event of type %q", e.Type)}
		}
		if err := f.knows.Event(e); err != nil {
			return wrong{err}
		}
		f.events.Add(1)
		if pause > 0 && f.rand.IntN(10) == 0 && !f.frozen.Load() {
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
	if w := w.heard(); err == nil {
		err = w
	}
	return n, err
}
