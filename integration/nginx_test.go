package integration

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// nginx is an nginx process with one server, over HTTP/1.1 on a unix socket and over
// HTTP/2 on a port.
type nginx struct {
	t       *testing.T
	path    string
	dir     string
	port    int
	process *exec.Cmd
	exited  chan struct{}
	log     *buffer
}

// startNginx runs nginx with the settings of Debian's nginx.conf, those that are given,
// and what its server has, until the test ends.
func startNginx(t *testing.T, settings, server string) *nginx {
	t.Helper()
	n := &nginx{t: t, path: nginxPath(t), port: freePort(t)}
	var err error
	if n.dir, err = os.MkdirTemp("", "nginx"); err != nil { // t.TempDir is too long for a socket's path
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(n.dir) })
	n.writeCertificate()
	user := ""
	if os.Getuid() == 0 {
		user = "user root;" // another cannot read the socket of Caddy
	}
	n.write("nginx.conf", fmt.Sprintf(`
		daemon off;
		%s
		worker_processes 1;
		pid nginx.pid;
		error_log stderr notice;
		events {
			worker_connections 768;
		}
		http {
			client_body_temp_path body;
			proxy_temp_path proxy;
			fastcgi_temp_path fastcgi;
			uwsgi_temp_path uwsgi;
			scgi_temp_path scgi;
			access_log off;
			sendfile on;
			tcp_nopush on;
			gzip on;
			%s
			server {
				listen unix:%s;
				listen 127.0.0.1:%d ssl http2;
				ssl_certificate certificate;
				ssl_certificate_key key;
				%s
			}
		}`, user, settings, n.socket(), n.port, server))
	n.run()
	t.Cleanup(n.stop)
	return n
}

// nginxPath returns where nginx is, which is not always where users look for programs.
func nginxPath(t *testing.T) string {
	t.Helper()
	startsProcesses(t)
	if path, err := exec.LookPath("/usr/sbin/nginx"); err == nil {
		return path
	}
	return program(t, "nginx")
}

// writeCertificate writes the one that net/http/httptest has.
func (n *nginx) writeCertificate() {
	n.t.Helper()
	server := httptest.NewTLSServer(http.NotFoundHandler())
	defer server.Close()
	certificate := server.TLS.Certificates[0]
	key, err := x509.MarshalPKCS8PrivateKey(certificate.PrivateKey)
	if err != nil {
		n.t.Fatal(err)
	}
	n.write("certificate", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate.Certificate[0]})))
	n.write("key", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})))
}

func (n *nginx) write(name, text string) {
	n.t.Helper()
	if err := os.WriteFile(filepath.Join(n.dir, name), []byte(text), 0o600); err != nil {
		n.t.Fatal(err)
	}
}

func (n *nginx) socket() string { return filepath.Join(n.dir, "h1") }

// run starts the process and waits until it serves.
func (n *nginx) run() {
	n.t.Helper()
	n.log = new(buffer)
	n.exited = make(chan struct{})
	n.process = exec.Command(n.path, "-e", "stderr", "-p", n.dir+"/", "-c", "nginx.conf")
	n.process.Stderr, n.process.Stdout = n.log, n.log
	if err := n.process.Start(); err != nil {
		n.t.Fatal(err)
	}
	process, exited := n.process, n.exited
	go func() {
		process.Wait()
		close(exited)
	}()
	eventually(n.t, "nginx serves", func() bool {
		select {
		case <-exited:
			n.t.Fatalf("nginx ended:\n%s", n.log)
		default:
		}
		conn, err := net.Dial("unix", n.socket())
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
}

// reload lets a new worker take over, while the old one serves its connections to their
// ends.
func (n *nginx) reload() {
	n.t.Helper()
	workers := func() int { return strings.Count(n.log.String(), "start worker process ") }
	before := workers()
	n.process.Process.Signal(syscall.SIGHUP)
	eventually(n.t, "nginx has a new worker", func() bool { return workers() > before })
}

// stop ends the process, and with it all connections.
func (n *nginx) stop() {
	n.process.Process.Signal(syscall.SIGTERM)
	<-n.exited
	if n.t.Failed() {
		n.t.Logf("nginx's log:\n%s", n.log)
	}
}

// doors returns how to reach nginx.
func (n *nginx) doors() []door {
	transport := &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", "127.0.0.1:"+strconv.Itoa(n.port))
		},
		TLSClientConfig:    &tls.Config{InsecureSkipVerify: true},
		ForceAttemptHTTP2:  true,
		DisableCompression: true,
	}
	n.t.Cleanup(transport.CloseIdleConnections)
	return []door{
		{"h1", unixClient(n.socket()), "http://localhost"},
		{"h2", &http.Client{Transport: transport}, "https://localhost"},
	}
}
