package control

import (
	"bytes"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"time"
)

// How long a caller may take. Only the owner and root can call, but a command
// that was stopped in the middle of a request must not hold up the others, nor
// the server's end.
const (
	readPatience  = 10 * time.Second // to send the head of a request, and then its body
	writePatience = time.Minute      // to take the answer
)

// newHTTPServer serves requests that come whole and in time. None begins to use
// the store before it is there. That a mount's connection stays open is no
// matter: its request has been read.
func newHTTPServer(h http.Handler, log *slog.Logger) *http.Server {
	return &http.Server{
		Handler:           whole(h),
		ReadHeaderTimeout: readPatience,
		IdleTimeout:       readPatience,
		MaxHeaderBytes:    maxRequest,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
}

// mostOf bounds the body of a request.
func mostOf(r *http.Request) int64 {
	switch {
	case strings.HasPrefix(r.URL.Path, "/v1/imports/"):
		return maxImportRequest
	case strings.HasSuffix(r.URL.Path, "/inventory"), strings.HasSuffix(r.URL.Path, "/compose"):
		return maxSelection
	}
	return maxRequest
}

// whole reads a request's body before the request is answered.
func whole(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		control := http.NewResponseController(w)
		control.SetReadDeadline(time.Now().Add(readPatience))
		most := mostOf(r)
		body, err := io.ReadAll(io.LimitReader(r.Body, most+1))
		if err != nil {
			panic(http.ErrAbortHandler) // closes the connection: there is nobody to tell
		}
		if int64(len(body)) <= most {
			control.SetReadDeadline(time.Time{}) // or the mount would end with it
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		next.ServeHTTP(w, r)
	})
}
