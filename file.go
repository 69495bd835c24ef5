package pollsse

import (
	"bytes"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"net/http"
	"path"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/klauspost/compress/gzip"
)

// file is one that comes with the module.
type file struct {
	content     []byte
	compressed  []byte // the same, by gzip
	contentType string
	etag        string // without the quotes
	policy      string // Content-Security-Policy, "" for none
}

var (
	//go:embed client/poll_sse.js
	clientModule []byte
	//go:embed inspect.html
	inspector []byte

	// Made when they are first asked for: most processes that have the module never are.
	clientFile  = sync.OnceValue(func() *file { return newFile(clientModule, "text/javascript; charset=utf-8", "") })
	inspectFile = sync.OnceValue(func() *file { return newFile(inspector, "text/html; charset=utf-8", policyOf(inspector)) })
)

func newFile(content []byte, contentType, policy string) *file {
	var b bytes.Buffer
	w, err := gzip.NewWriterLevel(&b, gzip.BestCompression)
	if err != nil {
		panic("file: internal error: " + err.Error())
	}
	w.Write(content) // a buffer takes everything
	w.Close()
	return &file{content, b.Bytes(), contentType, digest(content)[:22], policy}
}

// digest returns the SHA-256 of text.
func digest(text []byte) string {
	sum := sha256.Sum256(text)
	return base64.StdEncoding.EncodeToString(sum[:])
}

var inline = regexp.MustCompile(`(?s)<(script|style)[^>]*>(.*?)</(?:script|style)>`)

// policyOf returns a Content-Security-Policy that lets a page run and look as what is
// written in it says, and speak to its own site: whatever a document holds, none of it is
// a script.
func policyOf(page []byte) string {
	policy := "default-src 'none'; connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
	for _, m := range inline.FindAllSubmatch(page, -1) {
		policy += "; " + string(m[1]) + "-src 'sha256-" + digest(m[2]) + "'"
	}
	return policy
}

// file returns the file that r asks for, nil if none.
func (h *Handler) file(r *http.Request) *file {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		return nil
	}
	switch r.URL.Path {
	case "":
	case h.Client:
		return clientFile()
	case h.Inspect:
		return inspectFile()
	}
	return nil
}

func (f *file) serve(w http.ResponseWriter, r *http.Request) {
	header := w.Header()
	header.Set("Content-Type", f.contentType)
	header.Set("Cache-Control", "no-cache") // it may be another with the next Caddy
	header.Set("X-Content-Type-Options", "nosniff")
	if f.policy != "" {
		header.Set("Content-Security-Policy", f.policy)
	}
	header.Add("Vary", "Accept-Encoding")
	content, etag := f.content, f.etag
	if acceptsGzip(r) {
		header.Set("Content-Encoding", "gzip")
		content, etag = f.compressed, f.etag+"-gzip" // each encoding has its own (RFC 9110 §8.8.3.3)
	}
	header.Set("ETag", `"`+etag+`"`)
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(content))
}

// validFilePath reports whether a file can be served at p.
func validFilePath(p string) bool {
	return strings.HasPrefix(p, "/") && p != "/" && path.Clean(p) == p && !strings.ContainsAny(p, "*?#%{}")
}
