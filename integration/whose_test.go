package integration

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/pollsse/caddy-poll-sse/internal/sse"
)

// asked is what a backend says that it was asked for, see echo.
type asked struct {
	Host, URI     string
	Authorization any
}

// answerTo sends a request as it is and returns what the document says, which comes as
// an event or as it is; nothing where there is none.
func (c *caddy) answerTo(request string) (a asked) {
	c.t.Helper()
	conn := c.raw(request)
	defer conn.Close()
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		c.t.Errorf("%.200q: %v", request, err)
		return a
	}
	switch fate(response) {
	case "stream":
		e, err := sse.NewReader(response.Body).Next()
		if err != nil {
			c.t.Errorf("%.200q: %v", request, err)
		}
		err = json.Unmarshal([]byte(e.Data), &a)
		if err != nil {
			c.t.Errorf("%.200q: %v", request, err)
		}
	case "passed GET":
		if err := json.NewDecoder(response.Body).Decode(&a); err != nil {
			c.t.Errorf("%.200q: %v", request, err)
		}
	default:
		a.URI = fate(response)
	}
	return a
}

// spellings are requests that are alike, more or less: line and Host.
var spellings = [][2]string{
	{"/api/a", "localhost"}, {"/api/a", "LOCALHOST"}, {"/api/a", "LocalHost:80"}, {"/api/a", "localhost:8080"}, {"/api/a", "localhost."}, {"/api/a", "localhost:"},
	{"/api/a", "evil.example"}, {"/api/a", ""}, {"/api/a", "localhost@evil.example"}, {"/api/a", "[::1]:80"},
	{"http://localhost/api/a", "evil.example"}, {"http://LOCALHOST:80/api/a?x", "evil.example"}, {"http://evil.example/api/a", "localhost"}, {"https://localhost/api/a", "localhost"}, {"http://user:secret@localhost/api/a", "localhost"},
	{"/api/A", "localhost"}, {"/api/a/", "localhost"}, {"//api/a", "localhost"}, {"/api//a", "localhost"}, {"/api/./a", "localhost"}, {"/api/b/../a", "localhost"}, {"/api/../secret", "localhost"}, {"/x/../api/a", "localhost"},
	{"/api/%61", "localhost"}, {"/api%2Fa", "localhost"}, {"/api/b%2Fa", "localhost"}, {"/api/b%2fa", "localhost"}, {"/api/b/a", "localhost"}, {"/api/%2e%2e/secret", "localhost"}, {"/api/a%00", "localhost"}, {"/api/a%3Fx", "localhost"}, {"/api/a%0d%0aX-Evil:1", "localhost"},
	{"/api/a;x", "localhost"}, {"/api/a#x", "localhost"}, {"/api/a\\b", "localhost"}, {"/api/ä", "localhost"},
	{"/api/a?x=1&y=2", "localhost"}, {"/api/a?y=2&x=1", "localhost"}, {"/api/a?x=1&x=2", "localhost"}, {"/api/a?x=2&x=1", "localhost"}, {"/api/a?x=1&x=1", "localhost"}, {"/api/a?x=%31", "localhost"}, {"/api/a?X=1", "localhost"}, {"/api/a?x=1", "localhost"},
	{"/api/a?x=1;y=2", "localhost"}, {"/api/a?x=1#y", "localhost"}, {"/api/a?x=1?y=2", "localhost"}, {"/api/a?+", "localhost"}, {"/api/a?%20", "localhost"}, {"/api/a?x", "localhost"}, {"/api/a?x=", "localhost"}, {"/api/a?&x=", "localhost"}, {"/api/a?x=&", "localhost"},
}

// However a client spells what it asks for, it is sent the document that its own request
// would have got without the directive, while all others are polled as well.
func TestSpellingsOfRequests(t *testing.T) {
	u := newUpstream(t, "")
	u.setAnswer(echo)
	c := start(t, u.site("interval 20ms\nformat full"))
	var all sync.WaitGroup
	for _, spelling := range spellings {
		all.Go(func() {
			uri, host := spelling[0], "Host: "+spelling[1]
			plain := c.answerTo("GET " + uri + " HTTP/1.1\r\n" + host + "\r\nAccept: application/json\r\n\r\n")
			stream := c.answerTo(rawStream(uri, host))
			plain.Host = strings.ToLower(plain.Host) // names of hosts have no case (RFC 3986 §3.2.2)
			if path, _, _ := strings.Cut(plain.URI, "?"); path != "" && stream.URI != plain.URI || fmt.Sprint(stream) != fmt.Sprint(plain) {
				t.Errorf("%s at %q: %+v, without a stream %+v", uri, spelling[1], stream, plain)
			}
		})
	}
	all.Wait()
}

// Clients share a document only where all lines of a forwarded header are the same, in
// the same order, as the backend would have seen them.
func TestSpellingsOfForwardedHeaders(t *testing.T) {
	u := newUpstream(t, "")
	u.setAnswer(echo)
	c := start(t, u.site("interval 20ms\nformat full\nlinger 10s\nforward_header authorization cookie"))
	var all sync.WaitGroup
	for _, lines := range [][]string{
		nil,
		{"Authorization: alice"}, {"authorization: alice"}, {"AUTHORIZATION:alice"}, {"Authorization:  \talice \t"}, {"Authorization: Alice"},
		{"Authorization:"}, {"Authorization: "}, {"Authorization:", "Authorization: alice"}, {"Authorization: alice", "Authorization:"},
		{"Authorization: alice", "Authorization: bob"}, {"Authorization: bob", "Authorization: alice"},
		{"Authorization: alice,bob"}, {"Authorization: alice, bob"}, {"Authorization: bob, alice"},
		{"Authorization: alice\r\n bob"}, {"Authorization: alice bob"},
		{"Authorization: 5:alice3:bob"}, {"Authorization: alice", "Cookie: a=1"}, {"Authorization: alice13:Authorization"},
		{"Authorization : mallory"}, {"Authorization: alice", "X-Authorization: bob"}, {"Authorization: alice", "Connection: Authorization"},
		{"Authorization: \xff\xfe"}, {"Authorization: alice", "Transfer-Encoding: identity"},
		{"Proxy-Authorization: alice"}, {"Authorization_: alice"}, {"Authorization: [alice bob]"},
	} {
		for range 2 { // the second one finds what is held
			all.Go(func() {
				text := strings.Join(append(slices.Clone(lines), "Host: localhost"), "\r\n") + "\r\n"
				plain := c.answerTo("GET /api/a HTTP/1.1\r\nAccept: application/json\r\n" + text + "\r\n")
				stream := c.answerTo("GET /api/a HTTP/1.1\r\nAccept: text/event-stream\r\n" + text + "\r\n")
				if slices.Contains(lines, "Connection: Authorization") {
					plain.Authorization = stream.Authorization // is for a connection, of which a poll knows nothing
					if fmt.Sprint(stream.Authorization) != `["alice"]` && !strings.Contains(fmt.Sprint(stream.Authorization), "alice") {
						t.Errorf("%q: %+v", lines, stream)
					}
				}
				if fmt.Sprint(stream) != fmt.Sprint(plain) {
					t.Errorf("%q: %+v, without a stream %+v", lines, stream, plain)
				}
			})
		}
	}
	all.Wait()
}
