package integration

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pollsse/caddy-poll-sse/internal/oracle"
)

// knife is an HTTP proxy that cuts a response after as many bytes of its body as the
// request's header Cut-After says: in the middle, or, with Cut-Cleanly, so that it
// looks like its end, as it does behind a proxy that speaks HTTP/1.0 to the server.
func newKnife(t *testing.T, c *caddy) *httptest.Server {
	client, base := c.client("h1")
	knife := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		response := passOn(r.Context(), w, r, client, base, "Cut-After", "Cut-Cleanly")
		defer response.Body.Close()
		controller := http.NewResponseController(w)
		controller.Flush()
		var body io.Reader = response.Body
		if after := r.Header.Get("Cut-After"); after != "" {
			n, err := strconv.ParseInt(after, 10, 64)
			if err != nil {
				panic(err)
			}
			body = io.LimitReader(body, n)
		}
		var err error
		for b := make([]byte, 4<<10); err == nil; {
			var n int
			n, err = body.Read(b)
			w.Write(b[:n])
			controller.Flush()
		}
		if r.Header.Get("Cut-Cleanly") == "" {
			panic(http.ErrAbortHandler)
		}
	}))
	t.Cleanup(knife.Close)
	return knife
}

// catalogue returns a version of a document whose patches cannot be applied twice, nor
// one without the one before it.
func catalogue(version int) string {
	items := `"ü😀\n","` + strings.Repeat("lorem ipsum ", 12) + `"`
	for v := range version {
		items = fmt.Sprintf(`"%d",`, v+1) + items
	}
	return fmt.Sprintf(`{"version":%d,"items":[%s]}`, version, items)
}

const lastVersion = 3

// visitor is a page with an EventSource whose connections are cut.
type visitor struct {
	engine  engine
	format  string
	url     string
	cuts    []int // the first connections end after that many bytes of the body
	cleanly bool

	doc     any
	version int
	wrong   error
}

// crowd is how far some visitors are together.
type crowd struct {
	first int // how many bytes of a response there are at first
	// Done by each visitor when it has received what it shall of those, when it is cut,
	// and when it holds the version before the last one.
	begun, cut, caughtUp sync.WaitGroup
	proceed              chan struct{} // closed when they may reconnect
	ended                sync.WaitGroup
}

// run follows the document to its last version.
func (f *visitor) run(ctx context.Context, c *crowd) {
	f.version = -1
	begun, cut, caughtUp := sync.OnceFunc(c.begun.Done), sync.OnceFunc(c.cut.Done), sync.OnceFunc(c.caughtUp.Done)
	defer caughtUp()
	defer cut()
	defer begun()
	for i := 0; f.version < lastVersion && f.wrong == nil; i++ {
		after := -1
		if i < len(f.cuts) {
			after = f.cuts[i]
		}
		f.wrong = f.connect(ctx, after, func(received int) {
			if received >= min(after, c.first) {
				begun()
			}
			if f.version >= lastVersion-1 {
				caughtUp()
			}
		})
		begun()
		cut()
		<-c.proceed
	}
}

// connect follows one connection until it ends or the last version is there, and
// reports what has gone wrong.
func (f *visitor) connect(ctx context.Context, after int, progress func(received int)) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, f.url, nil)
	if err != nil {
		return err
	}
	request.Header = f.engine.header()
	request.Header.Set("Accept-Encoding", "identity")
	if after >= 0 {
		request.Header.Set("Cut-After", strconv.Itoa(after))
	}
	if f.cleanly {
		request.Header.Set("Cut-Cleanly", "true")
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if !follows(response) {
		return fmt.Errorf("%s with Content-Type %q ends an EventSource", response.Status, response.Header.Get("Content-Type"))
	}
	received := 0
	progress(received)
	for b := make([]byte, 1<<10); ; {
		n, err := response.Body.Read(b)
		received += n
		for _, m := range f.engine.receive(b[:n]) {
			if err := f.listen(m); err != nil {
				return fmt.Errorf("after %q: %w", request.Header.Get("Last-Event-ID"), err)
			}
		}
		progress(received)
		switch {
		case f.version == lastVersion:
			return nil
		case ctx.Err() != nil:
			return fmt.Errorf("holds version %d, and waits for more after %d bytes", f.version, received)
		case err == io.EOF && f.cleanly || errors.Is(err, io.ErrUnexpectedEOF) && !f.cleanly:
			if received != after {
				return fmt.Errorf("cut after %d bytes, not %d", received, after)
			}
			f.engine.end(f.cleanly)
			return nil
		case err != nil:
			return err
		}
	}
}

// listen is what the page's listeners do, and reports what they should not have got.
func (f *visitor) listen(m message) error {
	whole := f.format == "full" || strings.HasPrefix(m.data, `[{"op":"replace","path":"","value":`)
	switch {
	case m.kind == "_":
		return nil // nobody listens for it
	case m.kind == "snapshot" && f.format == "merge":
		whole = true
	case m.kind != "message":
		return fmt.Errorf("foreign event %+v", m)
	case m.data == "":
		return errors.New("empty event")
	}
	next, err := f.apply(m)
	if err != nil {
		return fmt.Errorf("%w: holds version %d and is sent %+v", err, f.version, m)
	}
	version := numberOf(next, "version")
	if want, _ := oracle.Value([]byte(catalogue(version))); !reflect.DeepEqual(next, want) {
		return fmt.Errorf("event %+v leads to %v", m, next)
	}
	if version <= f.version || version > f.version+1 && !whole {
		return fmt.Errorf("version %d after %d, by %+v", version, f.version, m)
	}
	f.doc, f.version = next, version
	return nil
}

func (f *visitor) apply(m message) (any, error) {
	if f.format == "patch" {
		return oracle.Apply(f.doc, []byte(m.data))
	}
	v, err := oracle.Value([]byte(m.data))
	if err == nil && m.kind != "snapshot" && f.format == "merge" {
		v = oracle.Merge(f.doc, v)
	}
	return v, err
}

func numberOf(doc any, name string) int {
	object, _ := doc.(map[string]any)
	n, err := strconv.Atoi(fmt.Sprint(object[name]))
	if err != nil {
		return -1
	}
	return n
}

// follow lets visitors of one document go through its versions: all are cut in the
// first or the second, the third comes while they are away, and the last when all hold
// the third.
func follow(t *testing.T, c *caddy, u *upstream, path string, first int, visitors []*visitor) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*patience)
	defer cancel()
	u.set(catalogue(0))
	live := c.open("h1", path, "")
	c.next(live)
	together := &crowd{first: first, proceed: make(chan struct{})}
	for _, f := range visitors {
		together.begun.Add(1)
		together.cut.Add(1)
		together.caughtUp.Add(1)
		together.ended.Go(func() { f.run(ctx, together) })
	}
	together.begun.Wait()
	u.set(catalogue(1))
	c.next(live)
	together.cut.Wait()
	u.set(catalogue(2))
	c.next(live)
	close(together.proceed)
	together.caughtUp.Wait()
	u.set(catalogue(lastVersion))
	together.ended.Wait()
	live.close()
}

// lengths returns how many bytes of a response an engine's listener gets the first
// version by, and the second.
func lengths(t *testing.T, c *caddy, u *upstream, path string, e engine) (first, second int) {
	t.Helper()
	u.set(catalogue(0))
	header := e.header()
	s := c.open("h1", path, "", "User-Agent", header.Get("User-Agent"), "Cache-Control", header.Get("Cache-Control"))
	defer s.close()
	timer := time.AfterFunc(patience, s.cancel)
	defer timer.Stop()
	for b := make([]byte, 1); ; {
		if _, err := io.ReadFull(s.response.Body, b); err != nil {
			t.Fatal(err)
		}
		second++
		switch messages := e.receive(b); {
		case len(messages) > 0 && first == 0:
			first = second
			u.set(catalogue(1))
		case len(messages) > 0:
			return first, second
		}
	}
}
