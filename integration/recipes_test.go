package integration

import (
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"go.yaml.in/yaml/v3"
)

// recipe returns the directives of a site from the documentation, for [start].
// Replacements are pairs of what stands in it once or more, and what shall stand there.
func recipe(t *testing.T, file, name string, replacements ...string) string {
	t.Helper()
	text := blocksOf(t, file, "caddyfile "+name)[0]
	for i := 0; i < len(replacements); i += 2 {
		if !strings.Contains(text, replacements[i]) {
			t.Fatalf("%s, %s: no %q in\n%s", file, name, replacements[i], text)
		}
		text = strings.ReplaceAll(text, replacements[i], replacements[i+1])
	}
	address, site, ok := strings.Cut(text, " {\n")
	site, end := strings.CutSuffix(site, "\n}\n")
	if !ok || !end || strings.Contains(address, "\n") {
		t.Fatalf("%s, %s is not one site:\n%s", file, name, text)
	}
	return site
}

const recipes, troubleshooting = "docs/recipes.md", "docs/troubleshooting.md"

// quick are options for tests.
const quick = "interval 20ms\nretry 20ms 50ms\nlinger 100ms\ndrain 100ms"

// sessions is an auth service: it knows sessions by their cookie, until they end.
type sessions struct {
	*httptest.Server
	mu    sync.Mutex
	users map[string]string // by session
	asked int
}

func newSessions(t *testing.T, users map[string]string) *sessions {
	s := &sessions{users: users}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.asked++
		user, ok := s.users[session(r)]
		switch {
		case !ok:
			http.Error(w, "no session", http.StatusUnauthorized)
		case user != "":
			w.Header().Set("X-User", user)
		}
	}))
	t.Cleanup(func() {
		s.CloseClientConnections()
		s.Close()
	})
	return s
}

func (s *sessions) end(session string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.users, session)
}

func session(r *http.Request) string {
	cookie, err := r.Cookie("session")
	if err != nil {
		return ""
	}
	return cookie.Value
}

// ofUser answers with whose the document is, by the header that Caddy sets.
func ofUser(w http.ResponseWriter, r *http.Request) {
	fmt.Fprintf(w, `{"user":%q}`, r.Header.Get("X-User"))
}

// shows expects that the stream's first event has a text.
func (c *caddy) shows(s *connection, text string) {
	c.t.Helper()
	if e := c.next(s); !strings.Contains(e.Data, text) {
		c.t.Errorf("sent is %.200s, want %s", e.Data, text)
	}
}

// refuses expects that what asks for a stream gets another answer with that status.
func (c *caddy) refuses(path string, status int, header ...string) (body string) {
	c.t.Helper()
	s, err := c.connect("h1", path, "", header...)
	if err != nil {
		c.t.Fatal(err)
	}
	defer s.close()
	if s.response.StatusCode != status || follows(s.response) {
		c.t.Errorf("%s: %s, %s", path, s.response.Status, s.response.Header.Get("Content-Type"))
	}
	text, err := io.ReadAll(s.response.Body)
	if err != nil {
		c.t.Error(err)
	}
	return string(text)
}

// pollers returns how many documents are polled.
func (c *caddy) pollers() int { return strings.Count(c.goroutines(), ".(*resource).run(") }

func TestRecipesSession(t *testing.T) {
	auth := newSessions(t, map[string]string{"a1": "alice", "a2": "alice", "b1": "bob", "n1": ""})
	u := newUpstream(t, "")
	u.setAnswer(ofUser)
	site := func(maxAge string) string {
		return recipe(t, recipes, "session", "localhost:9001", auth.Listener.Addr().String(),
			"localhost:9000", u.Listener.Addr().String(), "max_age 5m", quick+"\nmax_age "+maxAge)
	}
	c := start(t, site("5m"))
	const path = "/api/me?sse_format=full"
	for session, user := range map[string]string{"a1": "alice", "a2": "alice", "b1": "bob"} {
		c.shows(c.open("h1", path, "", "Cookie", "session="+session, "X-User", "root"), `{"user":"`+user+`"}`)
	}
	if n := c.pollers(); n != 2 {
		t.Errorf("%d documents are polled for two users with three sessions", n)
	}
	// A client's own header does not reach the backend, whatever the auth service says.
	c.shows(c.open("h1", path, "", "Cookie", "session=n1", "X-User", "root"), `{"user":""}`)
	c.refuses(path, http.StatusUnauthorized, "X-User", "root")

	// The auth service judges connections only, so a stream outlives its session until max_age.
	auth.mu.Lock()
	asked := auth.asked
	auth.mu.Unlock()
	polls := u.count()
	c.eventually("polls go on", func() bool { return u.count() > polls+10 })
	auth.mu.Lock()
	if auth.asked != asked {
		t.Errorf("the auth service was asked %d times for polls", auth.asked-asked)
	}
	auth.mu.Unlock()
	c = start(t, site("1s"))
	s := c.open("h1", path, "", "Cookie", "session=b1")
	auth.end("b1")
	c.shows(s, `{"user":"bob"}`)
	if e, err := c.tryNext(s); err != io.EOF {
		t.Errorf("%v, %.100s", err, e.Data)
	}
	c.refuses(path, http.StatusUnauthorized, "Cookie", "session=b1")
}

func TestRecipesCookie(t *testing.T) {
	auth := newSessions(t, map[string]string{"a1": "alice", "b1": "bob"})
	u := newUpstream(t, "")
	u.setAnswer(func(w http.ResponseWriter, r *http.Request) {
		auth.mu.Lock()
		user, ok := auth.users[session(r)]
		auth.mu.Unlock()
		if !ok {
			http.Error(w, "no session", http.StatusUnauthorized)
			return
		}
		fmt.Fprintf(w, `{"user":%q,"cookies":%d}`, user, len(r.Cookies()))
	})
	c := start(t, recipe(t, recipes, "cookie", "localhost:9000", u.Listener.Addr().String(), "max_pollers 5000", quick+"\nmax_pollers 2"))
	alice := c.open("h1", "/api/me?sse_format=full", "", "Cookie", "session=a1; count=1")
	for n := range 3 {
		s := c.open("h1", "/api/me?sse_format=full", "", "Cookie", fmt.Sprintf("count=%d; session=a1", n))
		c.shows(s, `{"user":"alice","cookies":1}`)
	}
	c.shows(alice, `"alice"`)
	c.shows(c.open("h1", "/api/me", "", "Cookie", "session=b1"), `"bob"`)
	if n := c.pollers(); n != 2 {
		t.Errorf("%d documents are polled for two sessions", n)
	}
	full := c.open("h1", "/api/me/more", "", "Cookie", "session=a1")
	if _, err := c.tryNext(full); err != io.EOF || full.Retry.Seconds() < 15 || full.Retry.Seconds() > 60 {
		t.Errorf("over max_pollers: %v, retry %v", err, full.Retry)
	}
	auth.end("a1")
	if e, err := c.tryNext(alice); err != io.EOF {
		t.Errorf("the session has ended: %v, %.100s", err, e.Data)
	}
	for _, header := range []string{"session=a1", "other=1", ""} {
		c.refuses("/api/me", http.StatusUnauthorized, "Cookie", header)
	}
}

func TestRecipesUser(t *testing.T) {
	u := newUpstream(t, "")
	u.setAnswer(ofUser)
	site := recipe(t, recipes, "user", "localhost:9000", u.Listener.Addr().String())
	c := start(t, site)
	const alice = "Basic YWxpY2U6aGljY3Vw"
	c.shows(c.open("h1", "/api/me", "", "Authorization", alice, "X-User", "root"), `{"user":"alice"}`)
	c.refuses("/api/me", http.StatusUnauthorized, "X-User", "root")

	// What the list under the recipe warns of.
	without := strings.Replace(site, "forward_header X-User", "", 1)
	proxy := "reverse_proxy /api/* " + u.Listener.Addr().String()
	c = start(t, strings.Replace(without, proxy, proxy+" {\nheader_up X-User {http.auth.user.id}\n}", 1))
	c.shows(c.open("h1", "/api/me", "", "Authorization", alice), `{"user":"{http.auth.user.id}"}`)
}

func TestRecipesToken(t *testing.T) {
	u := newUpstream(t, "")
	var mu sync.Mutex
	valid := "Bearer one"
	u.setAnswer(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		if r.Header.Get("Authorization") != valid {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		fmt.Fprintf(w, `{"token":%q}`, valid)
	})
	c := start(t, recipe(t, recipes, "token", "localhost:9000", u.Listener.Addr().String(), "forward_header", quick+"\nforward_header"))
	s := c.open("h1", "/api/me", "", "Authorization", "Bearer one")
	c.shows(s, `"Bearer one"`)
	mu.Lock()
	valid = "Bearer two"
	mu.Unlock()
	if e, err := c.tryNext(s); err != io.EOF {
		t.Errorf("the token has expired: %v, %.100s", err, e.Data)
	}
	c.refuses("/api/me", http.StatusUnauthorized, "Authorization", "Bearer one")
	c.shows(c.open("h1", "/api/me", "", "Authorization", "Bearer two"), `"Bearer two"`)
}

func TestRecipesRewrite(t *testing.T) {
	t.Setenv("WEATHER_KEY", "secret")
	u := newUpstream(t, numbered(0))
	c := start(t, recipe(t, recipes, "rewrite", "https://weather.example", u.Listener.Addr().String(), "interval 1m", "interval 1h"))
	s := c.open("h1", "/live/weather?a=1", "")
	c.shows(s, numbered(0))
	c.shows(c.open("h1", "/live/weather?a=2", ""), numbered(0))
	poll := u.lastPoll()
	if u.count() != 1 || poll.RequestURI != "/v2/stations/vienna/now.json" || poll.Host != "weather.example" || poll.Header.Get("Authorization") != "Bearer secret" {
		t.Errorf("polled %d times, %s of %s with %q", u.count(), poll.RequestURI, poll.Host, poll.Header.Get("Authorization"))
	}
	if got := s.response.Header.Get("Authorization"); got != "" {
		t.Errorf("clients are sent %q", got)
	}
	// Nothing else is sent on with the key.
	for _, method := range []string{http.MethodGet, http.MethodPost} {
		request, err := http.NewRequestWithContext(t.Context(), method, "http://localhost/live/weather", nil)
		if err != nil {
			t.Fatal(err)
		}
		if method == http.MethodPost {
			request.Header.Set("Accept", "text/event-stream")
		}
		response, err := c.h1.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		if response.StatusCode != http.StatusNotFound || u.count() != 1 {
			t.Errorf("%s: %s, and %d requests reach the upstream", method, response.Status, u.count())
		}
	}
	// The answer to who connects when there is no document knows no cookie of ours.
	u.setAnswer(func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusNotFound) })
	again := start(t, recipe(t, recipes, "rewrite", "https://weather.example", u.Listener.Addr().String()))
	again.refuses("/live/weather", http.StatusNotFound, "Cookie", "session=a1")
	if got := u.lastPoll().Header.Get("Cookie"); got != "" {
		t.Errorf("the upstream is sent the cookie %q", got)
	}
}

func TestRecipesCDN(t *testing.T) {
	u := newUpstream(t, numbered(0))
	c := start(t, recipe(t, recipes, "cdn", "localhost:9000", u.Listener.Addr().String(), "heartbeat 10s", quick))
	s := c.open("h1", "/live/n?sse_format=full&a=1", "")
	c.shows(s, numbered(0))
	if poll := u.lastPoll(); poll.RequestURI != "/api/n?a=1" {
		t.Errorf("polled is %s", poll.RequestURI)
	}
	for name, want := range map[string]string{"Cache-Control": "no-store, no-transform", "Vary": "Accept, Accept-Encoding", "X-Accel-Buffering": "no"} {
		if got := s.response.Header.Get(name); got != want {
			t.Errorf("%s: %q", name, got)
		}
	}
	c.refuses("/api/n", http.StatusOK)
	for path, want := range map[string]string{"/api/n": "", "/live/n": "Accept"} {
		response, err := c.h1.Get("http://localhost" + path)
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		if got := response.Header.Get("Vary"); got != want {
			t.Errorf("a GET of %s varies by %q", path, got)
		}
	}
}

func TestRecipesCORS(t *testing.T) {
	u := newUpstream(t, "")
	u.setAnswer(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Access-Control-Allow-Origin", "*") // as some backends do
		fmt.Fprint(w, numbered(0))
	})
	c := start(t, recipe(t, recipes, "cors", "localhost:9000", u.Listener.Addr().String()))
	plain, err := c.h1.Get("http://localhost/api/n")
	if err != nil {
		t.Fatal(err)
	}
	plain.Body.Close()
	for _, header := range []http.Header{plain.Header, c.open("h1", "/api/n", "").response.Header} {
		if got := header.Values("Access-Control-Allow-Origin"); !slices.Equal(got, []string{"https://app.example.com"}) {
			t.Errorf("allowed is %q", got)
		}
		if got := strings.Join(header.Values("Vary"), ","); !strings.Contains(got, "Accept") || !strings.HasSuffix(got, "Origin") {
			t.Errorf("varies by %q", got)
		}
	}
}

// A client that comes back to another replica is sent nothing where it has the newest
// document, else the whole document.
func TestRecipesReplicas(t *testing.T) {
	u := newUpstream(t, numbered(0))
	a, b := start(t, u.site(quick)), start(t, u.site(quick))
	s := a.open("h1", "/api/n", "")
	id := a.next(s).ID
	u.set(numbered(1))
	newest := a.next(s).ID
	held := b.open("h1", "/api/n", newest)
	c := b
	c.eventually("it is recognised", func() bool { return c.metric(`caddy_poll_sse_resumes_total{outcome="digest"}`) == 1 })
	if e := b.next(b.open("h1", "/api/n", id)); !strings.Contains(e.Data, `"path":"","value":`+numbered(1)) {
		t.Errorf("who has an older one is sent %.200s", e.Data)
	}
	u.set(numbered(2))
	if e := b.next(held); strings.Contains(e.Data, `"path":""`) || !strings.Contains(e.Data, `"value":2`) {
		t.Errorf("who has the newest is sent %.200s", e.Data)
	}
}

// What docs/troubleshooting.md says of order and paths.
func TestRecipesTroubleshooting(t *testing.T) {
	auth := newSessions(t, map[string]string{"a1": "alice"})
	u := newUpstream(t, "")
	u.setAnswer(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, `{"user":%q,"path":%q}`, r.Header.Get("X-User"), r.URL.Path)
	})
	in := func(name string, replacements ...string) string {
		if name == "order" {
			replacements = append(replacements, "localhost:9001", auth.Listener.Addr().String())
		}
		return recipe(t, troubleshooting, name, append(replacements, "localhost:9000", u.Listener.Addr().String())...)
	}
	c := start(t, in("order"))
	c.shows(c.open("h1", "/api/me", "", "Cookie", "session=a1"), `"alice"`)
	// The auth service behind the directive: the stream's request passes, as a plain one.
	order := in("order")
	poll := regexp.MustCompile(`(?s)\t\tpoll_sse \{.*?\}\n`).FindString(order)
	order = strings.Replace(order, poll, "", 1)
	c = start(t, strings.Replace(order, "\t\tforward_auth", poll+"\t\tforward_auth", 1))
	if body := c.refuses("/api/me", http.StatusOK, "Cookie", "session=a1"); !strings.Contains(body, `"alice"`) {
		t.Errorf("served is %s", body)
	}

	for _, site := range []string{in("outside"), in("inside")} {
		c = start(t, site)
		c.shows(c.open("h1", "/api/prices", ""), `"path":"/prices"`)
	}
	// Matchers that are not met.
	for _, site := range []string{
		in("inside", "poll_sse", "poll_sse /api/*"),
		in("outside", "poll_sse /api/*", "poll_sse /api"),
		in("outside", "poll_sse /api/*", "route {\nreverse_proxy "+u.Listener.Addr().String()+"\npoll_sse /api/*\n}"),
	} {
		c = start(t, site)
		c.refuses("/api/prices", http.StatusOK)
	}

	// A counter in the query makes a document of each number.
	for options, want := range map[string]int{"": 5, "query none": 1, "query page": 1} {
		c = start(t, u.site(quick+"\n"+options))
		for n := range 5 {
			c.next(c.open("h1", fmt.Sprintf("/api/n?_=%d", n), ""))
		}
		if got := c.pollers(); got != want {
			t.Errorf("%d documents are polled with %q, want %d", got, options, want)
		}
	}
}

// The look that docs/troubleshooting.md begins with, and the words it finds.
func TestRecipesLook(t *testing.T) {
	curl := program(t, "curl")
	u := newUpstream(t, numbered(0))
	c := start(t, u.site(quick+"\ntimeout 300ms"))
	look := func(want string) {
		t.Helper()
		script := blocksOf(t, troubleshooting, "sh look")[0]
		script = strings.ReplaceAll(script, "curl ", "exec "+curl+" -s --unix-socket "+c.dir+"/h1 ")
		out, stop := shell(t, script)
		defer stop()
		c.eventually("curl shows "+want, func() bool {
			return strings.Contains(out.String(), "Content-Type: text/event-stream") && strings.Contains(out.String(), want)
		})
	}
	look(`"state":"live"`)
	stale := func(word string, answer http.HandlerFunc) {
		t.Helper()
		u.setAnswer(answer)
		look(`"upstream":` + word)
		u.set(numbered(0))
		look(`"state":"live"`)
	}
	stale(`"timeout"`, func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	c = start(t, u.site(quick+"\nmax_body 2KB")) // a poll that timed out would leave no turn to tell of
	look(`"state":"live"`)
	stale("503", func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(503) })
	stale("302", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/login", 302) })
	stale(`"invalid"`, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "<html>") })
	stale(`"incomplete"`, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "9")
		io.WriteString(w, "{}")
	})
	stale(`"encoded"`, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Encoding", "br")
		io.WriteString(w, "{}")
	})
	stale(`"too_large"`, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, `"`+strings.Repeat("a", 3000)+`"`) })
	u.CloseClientConnections()
	u.Close()
	look(`"upstream":502`)
}

// What docs/migrating.md says that the backend sees.
func TestRecipesMigrating(t *testing.T) {
	u := newUpstream(t, "")
	u.setAnswer(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("ETag", `"1"`)
		if r.Header.Get("If-None-Match") == `"1"` {
			w.WriteHeader(http.StatusNotModified)
			return
		}
		fmt.Fprint(w, numbered(0))
	})
	c := start(t, u.site(quick))
	for range 3 {
		c.next(c.open("h1", "/api/n", "", "Cookie", "session=1", "User-Agent", "Mozilla/5.0"))
	}
	polls := u.count()
	c.eventually("polls go on", func() bool { return u.count() > polls+10 })
	if n := c.pollers(); n != 1 {
		t.Errorf("%d documents are polled", n)
	}
	header := u.lastPoll().Header
	header.Del("X-Forwarded-Host")
	header.Del("X-Forwarded-Proto")
	header.Del("Via")
	header.Del("Accept-Encoding")
	if want := (http.Header{"User-Agent": {"caddy-poll-sse"}, "Accept": {"application/json"}, "X-Forwarded-For": {"192.0.2.1"}, "If-None-Match": {`"1"`}}); !maps.EqualFunc(header, want, slices.Equal) {
		t.Errorf("polled with %v, want %v", header, want)
	}
	if n := c.metric(`caddy_poll_sse_polls_total{result="changed"}`); n != 1 {
		t.Errorf("%d documents were sent whole", n)
	}
}

// composition is what matters of a compose.yaml.
type composition struct {
	Services map[string]struct {
		Image, Build string
		Volumes      []string
	}
	Volumes map[string]any
}

func TestRecipesDocker(t *testing.T) {
	c := decode[composition](t, blocksOf(t, recipes, "yaml compose")[0])
	u := newUpstream(t, numbered(0))
	site := start(t, recipe(t, recipes, "docker", "app:9000", u.Listener.Addr().String()))
	site.shows(site.open("h1", "/api/n", ""), numbered(0))
	if c.Services["app"].Image == "" {
		t.Errorf("no service app in %+v", c)
	}
	volume, path, _ := strings.Cut(c.Services["caddy"].Volumes[0], ":")
	if _, ok := c.Volumes[volume]; !ok || path != "/data" || c.Services["caddy"].Build != "." {
		t.Errorf("compose.yaml is %+v", c)
	}
	dockerfile := blocksOf(t, recipes, "dockerfile")[0]
	if m := regexp.MustCompile(`^FROM caddy:(\S+)-builder AS builder\nRUN xcaddy build --with (\S+)\n\nFROM caddy:(\S+)\n`).FindStringSubmatch(dockerfile); m == nil || m[1] != m[3] || m[2] != "github.com/pollsse/caddy-poll-sse" {
		t.Errorf("Dockerfile:\n%s", dockerfile)
	}
}

// manifest is what matters of those of Kubernetes.
type manifest struct {
	Kind     string
	Metadata metadata
	Data     map[string]string
	Spec     struct {
		Selector struct {
			MatchLabels map[string]string `yaml:"matchLabels"`
			App         string
		}
		Ports []struct {
			TargetPort string `yaml:"targetPort"`
		}
		Template struct {
			Metadata metadata
			Spec     struct {
				Containers []container
				Volumes    []struct {
					Name      string
					ConfigMap metadata `yaml:"configMap"`
				}
			}
		}
	}
}

type metadata struct {
	Name   string
	Labels map[string]string
}

type container struct {
	Ports []struct {
		Name          string
		ContainerPort int `yaml:"containerPort"`
	}
	ReadinessProbe struct {
		TCPSocket struct{ Port string } `yaml:"tcpSocket"`
	} `yaml:"readinessProbe"`
	VolumeMounts []struct {
		Name      string
		MountPath string `yaml:"mountPath"`
	} `yaml:"volumeMounts"`
}

// What the manifests name is there.
func TestRecipesKubernetes(t *testing.T) {
	objects := make(map[string]manifest)
	for text := range strings.SplitSeq(blocksOf(t, recipes, "yaml sidecar")[0], "---\n") {
		m := decode[manifest](t, text)
		objects[m.Kind] = m
	}
	configMap, deployment, service := objects["ConfigMap"], objects["Deployment"], objects["Service"]
	pod := deployment.Spec.Template
	if len(pod.Spec.Containers) != 2 {
		t.Fatalf("deployed is %+v", deployment)
	}
	app, sidecar := pod.Spec.Containers[0], pod.Spec.Containers[1]

	caddyfile := configMap.Data["Caddyfile"]
	validate(t, "the sidecar's Caddyfile", caddyfile)
	for _, address := range []string{fmt.Sprintf(":%d {", sidecar.Ports[0].ContainerPort), fmt.Sprintf(" 127.0.0.1:%d\n", app.Ports[0].ContainerPort)} {
		if !strings.Contains(caddyfile, address) {
			t.Errorf("the Caddyfile has no %q", address)
		}
	}
	labels := pod.Metadata.Labels
	if selector := deployment.Spec.Selector.MatchLabels; len(labels) != 1 || !maps.Equal(selector, labels) || service.Spec.Selector.App != labels["app"] {
		t.Errorf("selected are %v and %s, labels are %v", selector, service.Spec.Selector.App, labels)
	}
	if name := sidecar.Ports[0].Name; name == "" || service.Spec.Ports[0].TargetPort != name || sidecar.ReadinessProbe.TCPSocket.Port != name {
		t.Errorf("the port is called %q, %q and %q", name, service.Spec.Ports[0].TargetPort, sidecar.ReadinessProbe.TCPSocket.Port)
	}
	mount, volume := sidecar.VolumeMounts[0], pod.Spec.Volumes[0]
	if mount.Name != volume.Name || volume.ConfigMap.Name != configMap.Metadata.Name || mount.MountPath != "/etc/caddy" {
		t.Errorf("mounted is %+v of %+v", mount, volume)
	}
}

func decode[T any](t *testing.T, text string) (v T) {
	t.Helper()
	if err := yaml.Unmarshal([]byte(text), &v); err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	return v
}
