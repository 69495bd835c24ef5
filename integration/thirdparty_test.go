package integration

import (
	"bufio"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// curlLoop follows with curl, as a user would write it down: it says where the stream
// before left off, and takes an event only when its blank line has come.
const curlLoop = `
	while sleep 0.05; do
		data=
		while IFS= read -r line; do
			case $line in
			data:*) data+=${line#data: } ;;
			id:*) new=${line#id: } ;;
			'') id=$new; printf '%s %s\n' "$id" "$data"; data= ;;
			esac
		done < <(curl -sN $flags -H 'Accept: text/event-stream' -H "Last-Event-ID: $id" "$url")
	done`

// TestCurl plays a scenario to curl in a loop.
func TestCurl(t *testing.T) {
	needs(t, "bash", "curl")
	s := newScenario(t, plainAndGzip)
	for path, flags := range map[string]string{"/api/plain": "", "/api/gzip": "--compressed"} {
		s.follow("curl", path, func(url string) func() []report {
			return followCommand(t, func(line string) report {
				id, data, _ := strings.Cut(line, " ")
				return report{ID: id, Data: data}
			}, "bash", "-c", "id= url="+url+" flags="+flags+curlLoop)
		})
	}
	s.play(len(cuts))
}

// nodeFollowers follows a URL with a package from npm and prints a line for each event.
const nodeFollowers = `
const [name, url] = process.argv.slice(2)
const print = (id, type, data) => console.log(JSON.stringify({ id, type: type === 'message' ? '' : type, data }))
const followers = {
	async 'eventsource'() {
		const { EventSource } = await import('eventsource')
		new EventSource(url).onmessage = e => print(e.lastEventId, e.type, e.data)
	},
	async 'eventsource-client'() {
		const { createEventSource } = await import('eventsource-client')
		createEventSource({ url, onMessage: e => print(e.id, e.event, e.data) })
	},
	// It is made for browsers: it wants a window and a document, and its ES module is for
	// bundlers. Its user has to make it reconnect where a stream ends.
	async '@microsoft/fetch-event-source'() {
		globalThis.window = globalThis
		globalThis.document = { addEventListener() {}, removeEventListener() {}, hidden: false }
		const { fetchEventSource } = (await import('@microsoft/fetch-event-source')).default
		fetchEventSource(url, {
			onmessage: e => print(e.id, e.event, e.data),
			onclose() { throw new Error('the stream has ended') },
		})
	},
}
followers[name]()`

// TestNodeClients plays a scenario to clients in Node.js.
func TestNodeClients(t *testing.T) {
	needs(t, "node")
	dir := t.TempDir()
	npmPackage(t, dir, "eventsource", "4.1.1", "D6bTRWh6KahHTK/m4WnjPQyEinNPf9eFLEZSEoj7d6fTibspnAVYfzHvirL7u/aoX5d9YYfIkBVAhmigUELk9w==")
	npmPackage(t, dir, "eventsource-client", "1.2.0", "kDI75RSzO3TwyG/K9w1ap8XwqSPcwi6jaMkNulfVeZmSeUM49U8kUzk1s+vKNt0tGrXgK47i+620Yasn1ccFiw==")
	npmPackage(t, dir, "eventsource-parser", "3.1.1", "EKN1vKAMcZ8MlYMpaNuxN6R9yakzH6uajHcHVTqWJzvu5pWw9DyhbP35HH8MVBQ+dZjAfDxk+A8NiR9KWaXiyQ==")
	npmPackage(t, dir, fetchEventSource, fetchEventSourceVersion, fetchEventSourceSum)
	script := filepath.Join(dir, "follow.mjs")
	if err := os.WriteFile(script, []byte(nodeFollowers), 0o600); err != nil {
		t.Fatal(err)
	}
	s := newScenario(t, plainAndGzip)
	for _, path := range []string{"/api/plain", "/api/gzip"} {
		for _, name := range []string{"eventsource", "eventsource-client", fetchEventSource} {
			f := s.follow(name, path, func(url string) func() []report {
				return followCommand(t, func(line string) (e report) {
					if err := json.Unmarshal([]byte(line), &e); err != nil {
						t.Errorf("%s prints %q", name, line)
					}
					return e
				}, "node", script, name, url)
			})
			if name == fetchEventSource && path == "/api/plain" {
				f.cuts = without(cuts, "after the id")
			}
		}
	}
	s.play(len(cuts))
	for _, f := range s.followers {
		if strings.HasPrefix(f.name, fetchEventSource) && f.path == "/api/plain" {
			s.losesCut(f)
		}
	}
}

const (
	fetchEventSource        = "@microsoft/fetch-event-source"
	fetchEventSourceVersion = "2.0.1"
	fetchEventSourceSum     = "W6CLUJ2eBMw3Rec70qrsEW0jOm/3twwJv21mrmj2yORiaVmVYGS4sSS5yUwvQc1ZlDLYGPnClVWmUUMagKNsfA=="
)

// losesCut looks whether a client still loses an event that is cut between its id and its
// blank line: it takes the id when it reads that line, and the event never. That is one
// byte at the end of each event, whatever the server does.
func (s *scenario) losesCut(f *follower) {
	s.t.Helper()
	at := cuts[len(cuts)-1]
	f.wire.resets(false)
	f.wire.cutAt(at.at, 0)
	s.change()
	s.caddy.eventually("the stream is cut "+at.name, f.wire.hasCut)
	s.caddy.eventually(f.name+" says that it has the event which it has lost", func() bool {
		s.listen(f, "after a loss")
		streams := f.wire.streams(s.t)
		for i := range streams[1:] {
			if lost := streams[i].half.ID; lost != "" && lost == streams[i+1].lastEventID && lost != f.lastID() {
				return true
			}
		}
		return false
	})
}

// followCommand begins to follow with a command that prints a line for each event.
func followCommand(t *testing.T, read func(line string) report, name string, arguments ...string) (take func() []report) {
	t.Helper()
	command := exec.CommandContext(t.Context(), name, arguments...)
	// With all that it has started.
	command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	command.Cancel = func() error { return syscall.Kill(-command.Process.Pid, syscall.SIGKILL) }
	command.WaitDelay = time.Second
	log := new(buffer)
	command.Stderr = log
	output, err := command.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	var got reports
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		lines := bufio.NewReader(output)
		for {
			line, err := lines.ReadString('\n')
			if err != nil {
				return
			}
			got.add(read(strings.TrimSuffix(line, "\n")))
		}
	}()
	t.Cleanup(func() {
		<-ended
		command.Wait()
		if text := log.String(); text != "" {
			t.Logf("%s says: %s", name, text)
		}
	})
	return got.take
}
