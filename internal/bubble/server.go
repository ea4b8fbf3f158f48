// SPDX-License-Identifier: Apache-2.0

package bubble

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"sdbox/internal/ident"
)

// Limits of a server's connections.
const (
	maxConns   = 1024
	tlsTime    = 10 * time.Second
	idleTime   = 15 * time.Minute // a connection made ahead of need may wait so long for its request
	acceptWait = 100 * time.Millisecond
)

// Server is the bubble's end: it answers gateways and keeps the accounts' desktops.
type Server struct {
	config   Config
	dns      string
	ledger   *ledger
	desktops map[string]*desktop // by account; fixed
	names    []string            // of the accounts, sorted; fixed

	mu    sync.Mutex
	conns map[*tls.Conn]*owner // guarded by mu
}

// owner says for which session, and in which owner epoch, a connection shows a desktop. Zero until Open.
type owner struct {
	session ident.ID
	epoch   uint64
}

// New checks the config, reads the token ledger and makes the directories. It starts no desktop.
func New(c Config) (*Server, error) {
	c, err := c.check()
	if err != nil {
		return nil, fmt.Errorf("bubble: %w", err)
	}
	if err := errors.Join(os.MkdirAll(c.State, 0o700), os.MkdirAll(c.Run, 0o711)); err != nil {
		return nil, fmt.Errorf("bubble: make directories: %w", err)
	}
	l, err := openLedger(c.State)
	if err != nil {
		return nil, fmt.Errorf("bubble: %w", err)
	}
	s := &Server{config: c, dns: c.Domain.Bubble(c.Name), ledger: l, desktops: map[string]*desktop{}, conns: map[*tls.Conn]*owner{}}
	for _, a := range c.Accounts {
		s.desktops[a.Name] = newDesktop(a, c.Run, c.Log)
		s.names = append(s.names, a.Name)
	}
	slices.Sort(s.names)
	return s, nil
}

// Serve answers on l until ctx ends, then closes l and every connection, ends the desktops and returns nil. Any other
// end is an error, and leaves the desktops alone.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	var served sync.WaitGroup
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	err := s.accept(ctx, l, &served)
	l.Close()
	s.closeAll()
	served.Wait()
	if ctx.Err() == nil {
		return fmt.Errorf("bubble: accept: %w", err)
	}
	var ends sync.WaitGroup
	for _, d := range s.desktops {
		ends.Go(func() {
			if err := d.end(); err != nil {
				d.log.Error("desktop not ended", "err", err)
			}
		})
	}
	ends.Wait()
	return nil
}

func (s *Server) accept(ctx context.Context, l net.Listener, served *sync.WaitGroup) error {
	for {
		raw, err := l.Accept()
		if errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) || errors.Is(err, syscall.ECONNABORTED) {
			select {
			case <-time.After(acceptWait):
				continue
			case <-ctx.Done():
			}
		}
		if err != nil {
			return err
		}
		conn := tls.Server(raw, s.tls())
		if !s.track(conn) {
			s.config.Log.Warn("too many connections", "limit", maxConns)
			raw.Close()
			continue
		}
		served.Go(func() {
			defer s.untrack(conn)
			s.serve(ctx, conn)
		})
	}
}

// tls asks for a certificate of the Gateways CA whose only names are those of gateways: bubbles have certificates of
// the same CA, and must not open one another.
func (s *Server) tls() *tls.Config {
	return &tls.Config{
		Certificates: []tls.Certificate{s.config.Certificate}, ClientCAs: s.config.Roots, ClientAuth: tls.RequireAndVerifyClientCert,
		MinVersion: tls.VersionTLS13, NextProtos: []string{ALPN}, SessionTicketsDisabled: true,
		VerifyConnection: func(cs tls.ConnectionState) error {
			if cs.NegotiatedProtocol != ALPN {
				return fmt.Errorf("peer speaks %q", cs.NegotiatedProtocol)
			}
			if err := checkGateway(cs.PeerCertificates[0], s.config.Domain); err != nil || s.config.Gateway == nil {
				return err
			}
			return s.config.Gateway(cs.PeerCertificates[0])
		},
	}
}

// checkGateway accepts a certificate whose names are all LABEL.DOMAIN.
func checkGateway(c *x509.Certificate, d ident.Domain) error {
	if len(c.DNSNames) == 0 {
		return errors.New("peer's certificate names no gateway")
	}
	for _, n := range c.DNSNames {
		label, found := strings.CutSuffix(n, "."+string(d))
		if !found || ident.CheckBubble(label) != nil { // a gateway's label has the same form
			return fmt.Errorf("peer's certificate is for %.80q: not a gateway of %s", n, d)
		}
	}
	return nil
}

func (s *Server) track(conn *tls.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.conns) >= maxConns {
		return false
	}
	s.conns[conn] = &owner{}
	return true
}

func (s *Server) untrack(conn *tls.Conn) {
	s.mu.Lock()
	delete(s.conns, conn)
	s.mu.Unlock()
	conn.NetConn().Close()
}

func (s *Server) closeAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		c.NetConn().Close()
	}
}

// own makes conn the session's, and cuts those of gateways that owned it before.
func (s *Server) own(conn *tls.Conn, c Claims) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for other, o := range s.conns {
		if o.session == c.Session && o.epoch < c.Epoch {
			other.NetConn().Close()
		}
	}
	if o := s.conns[conn]; o != nil {
		*o = owner{c.Session, c.Epoch}
	}
}

// serve is one connection's goroutine.
func (s *Server) serve(ctx context.Context, conn *tls.Conn) {
	log := s.config.Log.With("peer", conn.RemoteAddr().String())
	conn.SetDeadline(time.Now().Add(tlsTime))
	if err := conn.HandshakeContext(ctx); err != nil {
		log.Warn("gateway refused", "err", err)
		return
	}
	gateway := conn.ConnectionState().PeerCertificates[0]
	for {
		conn.SetDeadline(time.Now().Add(idleTime))
		var req request
		err := readFrame(conn, maxRequest, &req)
		if errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) {
			return
		}
		if err == nil && req.Kind == kindRunning {
			if err = writeFrame(conn, reply{Accounts: s.running()}); err == nil {
				continue
			}
		}
		switch {
		case err != nil:
		case req.Kind == kindOpen:
			if err = s.open(ctx, conn, gateway, req, log); err == nil {
				return
			}
		case req.Kind == kindEnd:
			if err = s.finish(conn, gateway, req, log); err == nil {
				continue
			}
		default:
			err = fmt.Errorf("%w: kind %d", ErrRequest, req.Kind)
		}
		log.Warn("request refused", "err", err)
		conn.SetDeadline(time.Now().Add(tlsTime))
		if err := writeFrame(conn, reply{Code: codeOf(err)}); err != nil {
			log.Warn("answer not sent", "err", err)
		}
		conn.CloseWrite()
		return
	}
}

// running lists the accounts whose desktop is up.
func (s *Server) running() []string {
	var up []string
	for _, n := range s.names {
		if s.desktops[n].up() {
			up = append(up, n)
		}
	}
	return up
}

// open answers an open request and carries RFB until either end closes. Its error means that nothing was answered yet.
func (s *Server) open(ctx context.Context, conn *tls.Conn, gateway *x509.Certificate, req request, log *slog.Logger) error {
	width, height := int(req.Width), int(req.Height)
	if width < minSide || height < minSide || width > s.config.MaxWidth || height > s.config.MaxHeight {
		return fmt.Errorf("%w: desktop of %d x %d pixels", ErrRequest, width, height)
	}
	if req.Layout != "" && !slices.Contains(s.config.Layouts, req.Layout) {
		return fmt.Errorf("%w: keyboard layout %.20q", ErrRequest, req.Layout)
	}
	claims, err := s.admit(req.Token, gateway, PurposeDesktop, time.Now())
	if err != nil {
		return err
	}
	s.own(conn, claims)
	waiting, cancel := context.WithTimeout(ctx, openTime) // the gateway waits no longer
	defer cancel()
	screen, err := s.desktops[claims.Account].connect(waiting, width, height, req.Layout)
	if err != nil {
		return err
	}
	defer screen.Close()
	if err := writeFrame(conn, reply{}); err != nil {
		log.Warn("answer not sent", "err", err)
		return nil
	}
	conn.SetDeadline(time.Time{})
	log = log.With("account", claims.Account, "session", claims.Session.String())
	log.Info("desktop attached")
	carry(conn, screen)
	log.Info("desktop detached")
	return nil
}

// finish answers an end request: whoever looks at the desktop loses it.
func (s *Server) finish(conn *tls.Conn, gateway *x509.Certificate, req request, log *slog.Logger) error {
	claims, err := s.admit(req.Token, gateway, PurposeEnd, time.Now())
	if err != nil {
		return err
	}
	log.Info("the person ends her desktop", "account", claims.Account, "session", claims.Session.String())
	conn.SetDeadline(time.Now().Add(finishTime))
	if err := s.desktops[claims.Account].end(); err != nil {
		return fmt.Errorf("%w: %w", ErrBusy, err)
	}
	return writeFrame(conn, reply{})
}

// carry copies both ways until one side ends, then ends the other.
func carry(gateway *tls.Conn, screen net.Conn) {
	var both sync.WaitGroup
	both.Go(func() {
		io.Copy(screen, gateway)
		screen.Close()
		gateway.NetConn().Close()
	})
	io.Copy(gateway, screen)
	gateway.NetConn().Close()
	screen.Close()
	both.Wait()
}
