// SPDX-License-Identifier: Apache-2.0

// Package console serves the people who run the centre: pages with the live sessions, and the API that sdboxctl speaks. It
// knows only operator certificates; nobody else gets as far as a request.
package console

import (
	"context"
	"crypto/tls"
	"embed"
	"errors"
	"fmt"
	"html/template"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"sdbox/firmware/release"
	"sdbox/gateway/appraise"
	"sdbox/gateway/audit"
	"sdbox/gateway/frontdoor"
	"sdbox/gateway/registry"
	"sdbox/gateway/releases"
	"sdbox/gateway/session"
	"sdbox/gateway/store"
	"sdbox/pki/profile"
)

// maxBody is the longest body of a request, in bytes, but for the file of a release: a signed note is the longest other thing sent here.
const maxBody = 1 << 20

// maxStrangers is how many connections may be open that have shown no operator's certificate yet. The newest take the place of the oldest:
// a handshake takes milliseconds, and the descriptors are the whole gateway's.
const maxStrangers = 128

// maxFeeds is how many pages may be open with live updates at once.
const maxFeeds = 64

//go:embed page
var files embed.FS

// operatorKey is the request context's key of the operator's name.
type operatorKey struct{}

// Config is what the console needs.
type Config struct {
	Gateway     string // DNS name, shown on every page
	Certificate tls.Certificate
	Trust       *profile.Trust
	Store       *store.Store
	Registry    *registry.Registry
	Sessions    *session.Server
	Door        *frontdoor.Door
	Audit       *audit.Log
	References  *appraise.Verifier // a note that it cannot hold a box to is not stored
	Releases    *releases.Depot
	Scratch     string // folder for exports under way
	Log         *slog.Logger
}

// Console is the operators' server. All methods may be called from any goroutine.
type Console struct {
	conf    Config
	pages   *template.Template
	handler http.Handler
	feeds   chan struct{} // one place per open page
	log     *slog.Logger
}

// New makes a console.
func New(conf Config) (*Console, error) {
	pages, err := template.ParseFS(files, "page/*.html")
	if err != nil {
		return nil, fmt.Errorf("console: pages: %w", err)
	}
	c := &Console{conf: conf, pages: pages, feeds: make(chan struct{}, maxFeeds), log: conf.Log}
	if c.log == nil {
		c.log = slog.New(slog.DiscardHandler)
	}
	mux := http.NewServeMux()
	c.routePages(mux)
	c.routeAPI(mux)
	guard := http.NewCrossOriginProtection()
	guard.SetDenyHandler(http.HandlerFunc(c.foreign))
	c.handler = c.known(c.own(guard.Handler(mux)))
	return c, nil
}

// Serve answers on a TCP listener until ctx ends, then closes every connection. It owns the listener.
func (c *Console) Serve(ctx context.Context, ln net.Listener) error {
	server := &http.Server{
		Handler: c.handler, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 30 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10,
		BaseContext: func(net.Listener) context.Context { return ctx },
		ErrorLog:    slog.NewLogLogger(c.log.Handler(), slog.LevelDebug), // any stranger can cause these
	}
	var waiting strangers
	server.ConnState = waiting.see
	closed := make(chan error, 1)
	stop := context.AfterFunc(ctx, func() {
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
		defer cancel()
		closed <- errors.Join(server.Shutdown(grace), server.Close())
	})
	err := server.Serve(tls.NewListener(ln, c.tlsConfig()))
	if stop() {
		return errors.Join(fmt.Errorf("console: %w", err), server.Close())
	}
	if err := <-closed; err != nil && !errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("console: %w", err)
	}
	return nil
}

// strangers are the connections that are not through their handshake, the oldest first.
type strangers struct {
	mu    sync.Mutex
	conns []net.Conn // guarded by mu
}

// see is told of every connection that comes, is through or goes (http.Server).
func (s *strangers) see(conn net.Conn, state http.ConnState) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if state != http.StateNew {
		s.conns = slices.DeleteFunc(s.conns, func(c net.Conn) bool { return c == conn })
		return
	}
	if s.conns = append(s.conns, conn); len(s.conns) > maxStrangers {
		s.conns[0].Close() // its goroutine notices
		s.conns = slices.Delete(s.conns, 0, 1)
	}
}

// tlsConfig lets a connection in only with an operator certificate. A certificate of the same authority that is not an
// operator's, a researcher's card for example, ends in the handshake.
func (c *Console) tlsConfig() *tls.Config {
	return &tls.Config{
		Certificates: []tls.Certificate{c.conf.Certificate}, MinVersion: tls.VersionTLS13, SessionTicketsDisabled: true,
		ClientAuth: tls.RequireAnyClientCert, NextProtos: []string{"h2", "http/1.1"},
		VerifyConnection: func(cs tls.ConnectionState) error {
			_, err := c.name(cs)
			return err
		},
	}
}

// name is the operator of a connection.
func (c *Console) name(cs tls.ConnectionState) (string, error) {
	if len(cs.PeerCertificates) == 0 {
		return "", errors.New("console: no operator certificate")
	}
	return c.conf.Trust.VerifyOperator(cs.PeerCertificates[0].Raw, time.Now())
}

// known names the operator and sets what every answer carries.
func (c *Console) known(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "+
			"form-action 'self'; base-uri 'none'; frame-ancestors 'none'")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "same-origin")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Cache-Control", "no-store")
		if r.TLS == nil {
			http.Error(w, "an operator certificate is needed", http.StatusUnauthorized)
			return
		}
		name, err := c.name(*r.TLS) // again: a connection may outlive its certificate
		if err != nil {
			http.Error(w, "this certificate is not an operator's", http.StatusForbidden)
			return
		}
		longest := int64(maxBody)
		if strings.HasPrefix(r.URL.Path, releaseFiles) {
			longest = release.MaxTransfer
		}
		r.Body = http.MaxBytesReader(w, r.Body, longest)
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), operatorKey{}, name)))
	})
}

func operator(r *http.Request) string {
	name, ok := r.Context().Value(operatorKey{}).(string)
	if !ok {
		panic("console: request without an operator")
	}
	return name
}
