package integration

import (
	"io"
	"net"
	"net/http"
	"strings"
)

// outages are what a backend may do for a while instead of answering with one JSON
// document.
var outages = map[string]http.HandlerFunc{
	"500":           func(w http.ResponseWriter, r *http.Request) { http.Error(w, "oh", 500) },
	"503":           func(w http.ResponseWriter, r *http.Request) { http.Error(w, "oh", 503) },
	"404":           http.NotFound,
	"204":           func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(204) },
	"304 unasked":   func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(304) },
	"redirect":      func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, r.URL.Path, 302) },
	"html":          says("<!doctype html><title>busy</title>"),
	"empty":         says(""),
	"two documents": says(`{"n":1}{"n":2}`),
	"BOM":           says("\ufeff" + `{"n":1}`),
	"not UTF-8":     says("{\"n\":\"\xff\"}"),
	"20 MB":         func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, `"`+strings.Repeat("x", 20<<20)+`"`) },
	"10,000 levels": says(strings.Repeat("[", 10_000) + strings.Repeat("]", 10_000)),
	"truncated": func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "1000")
		io.WriteString(w, `{"n":1,"filler":"`)
		panic(http.ErrAbortHandler)
	},
	"truncated, but valid": func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "9")
		io.WriteString(w, `12345`)
		panic(http.ErrAbortHandler)
	},
	"endless": func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, `[`)
		for r.Context().Err() == nil {
			if _, err := io.WriteString(w, strings.Repeat("1,", 1<<15)); err != nil {
				return
			}
		}
	},
	"slow drip": func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, `[`)
		http.NewResponseController(w).Flush()
		<-r.Context().Done()
	},
	"hang": func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() },
	"reset": func(w http.ResponseWriter, r *http.Request) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err == nil {
			conn.(*net.TCPConn).SetLinger(0)
			conn.Close()
		}
	},
	"gzip unasked": func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Encoding", "gzip")
		io.WriteString(w, "\x1f\x8b garbage")
	},
}

func says(text string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, text) }
}
