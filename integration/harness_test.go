// Package integration tests the module from outside: a real Caddy process, real
// sockets, real clients. The test binary itself is that Caddy (see TestMain).
package integration

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	_ "github.com/caddyserver/caddy/v2/modules/standard"
	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"

	_ "github.com/pollsse/caddy-poll-sse"
	"github.com/pollsse/caddy-poll-sse/internal/sse"
)

// Some tests draw what they do, and find more the longer they run; see CONTRIBUTING.md.
var (
	long     = flag.Duration("long", 0, "how long each test that draws what it does goes on, instead of some seconds")
	seedFlag = flag.Uint64("seed", 0, "the `number` that those tests begin with, to see a failure again; 0 draws one")
)

// seedOf returns what a test begins to draw from, and prints it.
func seedOf(t *testing.T) uint64 {
	seed := *seedFlag
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("-seed %d", seed)
	return seed
}

// TestMain makes the test binary the Caddy under test where the environment says so.
func TestMain(m *testing.M) {
	if os.Getenv("POLL_SSE_CADDY") != "" {
		caddycmd.Main()
		return
	}
	os.Exit(m.Run())
}

// program returns the path of a program. Where that is missing the test is skipped, or
// fails in CI, where .ci/run has installed it.
func program(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	switch {
	case err == nil:
	case os.Getenv("CI") == "true":
		t.Fatal(err)
	default:
		t.Skipf("%v; .ci/run installs what is missing", err)
	}
	return path
}

// needs skips the test where a program is missing.
func needs(t *testing.T, programs ...string) {
	t.Helper()
	for _, name := range programs {
		program(t, name)
	}
}

// shell runs a script until the test ends or stop is called, and returns what it prints.
func shell(t *testing.T, script string) (out *buffer, stop func()) {
	t.Helper()
	command := exec.Command("sh", "-euc", script)
	command.Dir = t.TempDir()
	out = new(buffer)
	command.Stdout, command.Stderr = out, out
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	stop = sync.OnceFunc(func() {
		command.Process.Kill()
		command.Wait()
	})
	t.Cleanup(stop)
	return out, stop
}

// passOn asks another server what r asks, without some header fields, and begins the
// answer as that does; the body is up to the caller.
func passOn(ctx context.Context, w http.ResponseWriter, r *http.Request, client *http.Client, base string, without ...string) *http.Response {
	request, err := http.NewRequestWithContext(ctx, r.Method, base+r.URL.RequestURI(), nil)
	if err != nil {
		panic(err)
	}
	request.Header = r.Header.Clone()
	for _, name := range without {
		request.Header.Del(name)
	}
	response, err := client.Do(request)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	maps.Copy(w.Header(), response.Header)
	w.WriteHeader(response.StatusCode)
	return response
}

// patience is how long tests wait for what has to happen. Where twenty processes share a
// processor, Caddy takes twenty seconds to start.
const patience = time.Minute

// caddy is a Caddy process that serves one site over HTTP/1.1 on a unix socket and
// over TLS, with HTTP/2 and HTTP/3, on a port.
type caddy struct {
	t       *testing.T
	dir     string
	port    int
	options string // global ones, from the next load on
	process *exec.Cmd
	exited  chan struct{}
	log     *buffer
	h1      *http.Client
	h1TLS   *http.Client
	h2      *http.Client
	h3      *http.Client
	admin   *http.Client
}

// buffer is a bytes.Buffer for two goroutines.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// forgive takes a text out that a test has brought about.
func (b *buffer) forgive(text string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	rest := bytes.ReplaceAll(b.b.Bytes(), []byte(text), nil)
	b.b.Reset()
	b.b.Write(rest)
}

// startsProcesses skips the test where there shall be none.
func startsProcesses(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("integration tests start processes; -short leaves them out")
	}
}

// start runs Caddy with the directives of one site until the test ends.
func start(t *testing.T, site string) *caddy {
	t.Helper()
	startsProcesses(t)
	dir, err := os.MkdirTemp("", "sse") // t.TempDir is too long for a socket's path
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	c := &caddy{t: t, dir: dir, port: freePort(t)}
	c.h1 = unixClient(filepath.Join(dir, "h1"))
	c.admin = unixClient(filepath.Join(dir, "admin"))
	c.h1TLS = c.newTLS(false)
	c.h2 = c.newH2()
	c.h3 = c.newH3()
	c.run(site)
	t.Cleanup(c.stop)
	return c
}

// config wraps a site's directives into a Caddyfile.
func (c *caddy) config(site string) string {
	return fmt.Sprintf(`{
	admin unix/%[1]s/admin
	persist_config off
	skip_install_trust
	local_certs
	auto_https disable_redirects
	%[4]s
}
(site) {
	respond /ready ready
	%[3]s
}
http://localhost {
	bind unix/%[1]s/h1
	import site
}
https://localhost:%[2]d {
	bind 127.0.0.1
	import site
}
`, c.dir, c.port, site, c.options)
}

// run starts the process and waits until it serves.
func (c *caddy) run(site string) {
	c.t.Helper()
	file := filepath.Join(c.dir, "Caddyfile")
	if err := os.WriteFile(file, []byte(c.config(site)), 0o600); err != nil {
		c.t.Fatal(err)
	}
	c.runArgs("run", "--config", file, "--adapter", "caddyfile")
	c.eventually("Caddy serves", func() bool {
		select {
		case <-c.exited:
			// Between two processes any socket of a client may have taken the port.
			if !strings.Contains(c.log.String(), "address already in use") {
				c.t.Fatalf("Caddy ended:\n%s", c.log)
			}
			time.Sleep(100 * time.Millisecond)
			c.runArgs("run", "--config", file, "--adapter", "caddyfile")
		default:
		}
		for _, url := range []string{"http://localhost/ready", "https://localhost:" + strconv.Itoa(c.port) + "/ready"} {
			client := c.h1
			if strings.HasPrefix(url, "https") {
				client = c.h2
			}
			response, err := client.Get(url)
			if err != nil {
				return false
			}
			response.Body.Close()
			client.CloseIdleConnections() // a server waits a second for one over HTTP/2
		}
		return true
	})
}

// runArgs starts the process with those arguments.
func (c *caddy) runArgs(args ...string) {
	c.t.Helper()
	c.log = new(buffer)
	c.exited = make(chan struct{})
	c.process = exec.Command(os.Args[0], args...)
	c.process.Env = append(os.Environ(), "POLL_SSE_CADDY=1", "XDG_DATA_HOME="+c.dir, "XDG_CONFIG_HOME="+c.dir,
		"GORACE=atexit_sleep_ms=0") // or the race detector makes each exit last a second
	c.process.Stderr, c.process.Stdout = c.log, c.log
	if err := c.process.Start(); err != nil {
		c.t.Fatal(err)
	}
	process, exited := c.process, c.exited
	go func() {
		process.Wait()
		close(exited)
	}()
}

// terminate sends SIGTERM and returns how long the process took to end.
func (c *caddy) terminate() time.Duration {
	c.t.Helper()
	return c.kill(syscall.SIGTERM)
}

// kill sends a signal that ends the process and returns how long that took.
func (c *caddy) kill(signal os.Signal) time.Duration {
	c.t.Helper()
	began := time.Now()
	c.process.Process.Signal(signal)
	select {
	case <-c.exited:
	case <-time.After(patience):
		c.process.Process.Signal(syscall.SIGABRT)
		<-c.exited
		c.t.Fatalf("Caddy did not end:\n%s", c.log)
	}
	return time.Since(began)
}

// stop ends the process and looks through its log.
func (c *caddy) stop() {
	select {
	case <-c.exited:
	default:
		c.terminate()
	}
	c.checkLog()
	if c.t.Failed() {
		lines := strings.Split(c.log.String(), "\n")
		c.t.Logf("end of Caddy's log:\n%s", strings.Join(lines[max(0, len(lines)-40):], "\n"))
	}
}

// checkLog looks through the process's log for what must never be there.
func (c *caddy) checkLog() {
	for _, bad := range []string{"DATA RACE", "panic", "internal error"} {
		if i := strings.Index(c.log.String(), bad); i >= 0 {
			c.t.Errorf("log of Caddy has %q:\n%.5000s", bad, c.log.String()[max(0, i-300):])
		}
	}
}

// reload loads a new configuration into the running process.
func (c *caddy) reload(site string) error {
	c.t.Helper()
	request, err := http.NewRequest(http.MethodPost, "http://localhost/load", strings.NewReader(c.config(site)))
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", "text/caddyfile")
	request.Header.Set("Cache-Control", "must-revalidate") // also where nothing has changed
	response, err := c.admin.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if body, _ := io.ReadAll(response.Body); response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", response.Status, body)
	}
	c.eventually("the old configuration's servers no longer listen", func() bool { return !c.isToShutDown() })
	// They may be closing connections that are idle.
	c.h1.CloseIdleConnections()
	c.h1TLS.CloseIdleConnections()
	c.h2.CloseIdleConnections()
	return nil
}

// isToShutDown reports whether a server of an unloaded configuration has yet to begin with
// that, which is up to goroutines that Caddy starts last.
func (c *caddy) isToShutDown() bool {
	c.t.Helper()
	for stack := range strings.SplitSeq(c.goroutines(), "\n\n") {
		if strings.Contains(stack, "caddyhttp.(*App).stop") && !strings.Contains(stack, "Shutdown(") && !strings.Contains(stack, "WaitGroup") {
			return true
		}
	}
	return false
}

// metric returns the value of a sample, written as in the exposition format.
func (c *caddy) metric(sample string) int {
	c.t.Helper()
	response, err := c.admin.Get("http://localhost/metrics")
	if err != nil {
		c.t.Fatal(err)
	}
	defer response.Body.Close()
	name, labels, _ := strings.Cut(strings.TrimSuffix(sample, "}"), "{")
	sum := 0.0
	for lines := bufio.NewScanner(response.Body); lines.Scan(); {
		series, value, _ := strings.Cut(lines.Text(), " ")
		if of, others, _ := strings.Cut(series, "{"); of != name || !strings.Contains(others, labels) {
			continue
		}
		n, err := strconv.ParseFloat(value, 64)
		if err != nil {
			c.t.Fatal(err)
		}
		sum += n
	}
	return int(sum)
}

// goroutines returns the stacks of the process's goroutines.
func (c *caddy) goroutines() string {
	c.t.Helper()
	response, err := c.admin.Get("http://localhost/debug/pprof/goroutine?debug=2")
	if err != nil {
		c.t.Fatal(err)
	}
	defer response.Body.Close()
	stacks, err := io.ReadAll(response.Body)
	if err != nil {
		c.t.Fatal(err)
	}
	return string(stacks)
}

func (c *caddy) eventually(what string, done func() bool) {
	c.t.Helper()
	eventually(c.t, what, done)
}

func eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !done(); {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain: %s", what)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// client returns the client and base URL for a protocol: h1, h1+TLS, h2 or h3.
func (c *caddy) client(protocol string) (*http.Client, string) {
	base := "https://localhost:" + strconv.Itoa(c.port)
	switch protocol {
	case "h1":
		return c.h1, "http://localhost"
	case "h1+TLS":
		return c.h1TLS, base
	case "h2":
		return c.h2, base
	case "h3":
		return c.h3, base
	}
	panic("unknown protocol " + protocol)
}

var protocols = []string{"h1", "h2", "h3"}

func unixClient(path string) *http.Client {
	return &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", path)
		},
		DisableCompression: true,
	}}
}

// newH2 returns a client with a connection of its own.
func (c *caddy) newH2() *http.Client { return c.newTLS(true) }

func (c *caddy) newTLS(h2 bool) *http.Client {
	transport := &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", c.address())
		},
		TLSClientConfig:    &tls.Config{InsecureSkipVerify: true}, // the process makes its own CA
		ForceAttemptHTTP2:  h2,
		DisableCompression: true,
	}
	c.t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

func (c *caddy) newH3() *http.Client {
	transport := &http3.Transport{
		TLSClientConfig:    &tls.Config{InsecureSkipVerify: true},
		DisableCompression: true,
		Dial: func(ctx context.Context, _ string, t *tls.Config, q *quic.Config) (*quic.Conn, error) {
			return quic.DialAddrEarly(ctx, c.address(), t, q)
		},
	}
	c.t.Cleanup(func() { transport.Close() })
	return &http.Client{Transport: transport}
}

func (c *caddy) address() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(c.port)) }

// freePort returns a port that is free for TCP and UDP, and of those that no socket is
// given that asks for any: until it is taken, others open many.
func freePort(t *testing.T) int {
	t.Helper()
	for range 100 {
		port := 20_000 + rand.IntN(10_000)
		address := net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
		listener, err := net.Listen("tcp", address)
		if err != nil {
			continue
		}
		listener.Close()
		packets, err := net.ListenPacket("udp", address)
		if err == nil {
			packets.Close()
			return port
		}
	}
	t.Fatal("no free port")
	return 0
}

// connection is an open stream.
type connection struct {
	*sse.Reader
	response *http.Response
	cancel   context.CancelFunc
}

func (s *connection) close() {
	s.cancel()
	s.response.Body.Close()
}

// connect asks for path as an EventSource does. Headers come in pairs.
func (c *caddy) connect(protocol, path, lastEventID string, header ...string) (*connection, error) {
	client, base := c.client(protocol)
	return connectTo(client, base+path, lastEventID, header...)
}

func connectTo(client *http.Client, url, lastEventID string, header ...string) (*connection, error) {
	ctx, cancel := context.WithCancel(context.Background())
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		cancel()
		return nil, err
	}
	request.Header.Set("Accept", "text/event-stream")
	if lastEventID != "" {
		request.Header.Set("Last-Event-ID", lastEventID)
	}
	for i := 0; i+1 < len(header); i += 2 {
		request.Header.Set(header[i], header[i+1])
	}
	response, err := client.Do(request)
	if err != nil {
		cancel()
		return nil, err
	}
	return &connection{sse.NewReader(decoded(response, response.Body)), response, cancel}, nil
}

// decoded returns the text of a response's body, which may be compressed.
func decoded(response *http.Response, body io.Reader) io.Reader {
	if response.Header.Get("Content-Encoding") != "gzip" {
		return body
	}
	return &gunzip{body: body}
}

// gunzip reads a gzip stream. That it ends in the middle is an error.
type gunzip struct {
	body io.Reader
	*gzip.Reader
}

func (g *gunzip) Read(p []byte) (n int, err error) {
	if g.Reader == nil {
		if g.Reader, err = gzip.NewReader(g.body); err != nil {
			return 0, err
		}
	}
	return g.Reader.Read(p)
}

// open connects, expects a stream, and closes it when the test ends.
func (c *caddy) open(protocol, path, lastEventID string, header ...string) *connection {
	c.t.Helper()
	s, err := c.connect(protocol, path, lastEventID, header...)
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(s.close)
	if got := s.response.Header.Get("Content-Type"); s.response.StatusCode != http.StatusOK || got != "text/event-stream; charset=utf-8" {
		c.t.Fatalf("%s with Content-Type %q", s.response.Status, got)
	}
	return s
}

// next returns the next event, which has to come.
func (c *caddy) next(s *connection) sse.Event {
	c.t.Helper()
	e, err := c.tryNext(s)
	if err != nil {
		c.t.Fatalf("next event: %v", err)
	}
	return e
}

var errSilence = errors.New("no event came")

func (c *caddy) tryNext(s *connection) (sse.Event, error) {
	timer := time.AfterFunc(patience, s.cancel)
	e, err := s.Next()
	if !timer.Stop() && err != nil {
		err = errSilence
	}
	return e, err
}

// upstream is a backend that serves one JSON document, or whatever answer says.
type upstream struct {
	*httptest.Server
	mu     sync.Mutex
	body   string
	answer http.HandlerFunc // instead of body, where not nil
	polls  []*http.Request
}

func newUpstream(t *testing.T, body string) *upstream {
	u := &upstream{body: body}
	u.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		u.mu.Lock()
		body, answer := u.body, u.answer
		if len(u.polls) < 100_000 {
			u.polls = append(u.polls, r.Clone(context.Background()))
		}
		u.mu.Unlock()
		if answer != nil {
			answer(w, r)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		io.WriteString(w, body)
	}))
	t.Cleanup(func() {
		u.CloseClientConnections()
		u.Close()
	})
	return u
}

// set changes the document, and ends any other answer.
func (u *upstream) set(body string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.body, u.answer = body, nil
}

func (u *upstream) setAnswer(answer http.HandlerFunc) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.answer = answer
}

// count returns how many polls there were.
func (u *upstream) count() int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return len(u.polls)
}

func (u *upstream) lastPoll() *http.Request {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.polls[len(u.polls)-1]
}

// site is the usual site: everything under /api is polled from u.
func (u *upstream) site(subdirectives string) string {
	return fmt.Sprintf("poll_sse /api/* {\n%s\n}\nreverse_proxy /api/* %s", subdirectives, u.Listener.Addr())
}
