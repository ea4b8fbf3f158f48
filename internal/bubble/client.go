// SPDX-License-Identifier: Apache-2.0

package bubble

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"time"
)

const (
	dialTime    = 5 * time.Second
	requestTime = 5 * time.Second
	openTime    = 30 * time.Second // a desktop may have to be started
	finishTime  = 20 * time.Second // its programs are asked first, and then ended
)

// ClientTLS is how a gateway speaks to the bubble with this DNS name: its own certificate, the roots of the Gateways CA.
func ClientTLS(own tls.Certificate, roots *x509.CertPool, bubble string) *tls.Config {
	return &tls.Config{
		Certificates: []tls.Certificate{own}, RootCAs: roots, ServerName: bubble,
		MinVersion: tls.VersionTLS13, NextProtos: []string{ALPN},
	}
}

// Conn is a connection to a bubble on which no desktop is open yet. It may be made ahead of need: without a token it
// shows nothing. It is used by one goroutine at a time.
type Conn struct{ conn *tls.Conn }

// Dial connects to a bubble and checks its certificate. Use ClientTLS for config.
func Dial(ctx context.Context, address string, config *tls.Config) (*Conn, error) {
	dialer := &tls.Dialer{
		NetDialer: &net.Dialer{Timeout: dialTime, KeepAliveConfig: keepAlive()},
		Config:    config,
	}
	ctx, cancel := context.WithTimeout(ctx, dialTime)
	defer cancel()
	c, err := dialer.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("connect to bubble: %w", err)
	}
	conn, ok := c.(*tls.Conn)
	if !ok {
		c.Close()
		return nil, errors.New("connect to bubble: not a TLS connection")
	}
	if got := conn.ConnectionState().NegotiatedProtocol; got != ALPN {
		conn.Close()
		return nil, fmt.Errorf("connect to bubble: it speaks %q, not %q", got, ALPN)
	}
	return &Conn{conn}, nil
}

// keepAlive finds a dead peer within about 11 s.
func keepAlive() net.KeepAliveConfig {
	return net.KeepAliveConfig{Enable: true, Idle: 5 * time.Second, Interval: 2 * time.Second, Count: 3}
}

// Running returns the accounts whose desktop is up, in alphabetical order. It starts nothing.
func (c *Conn) Running(ctx context.Context) ([]string, error) {
	r, err := c.ask(ctx, requestTime, request{Kind: kindRunning})
	if err != nil {
		return nil, fmt.Errorf("ask bubble for running desktops: %w", err)
	}
	return r.Accounts, nil
}

// Open spends the token on the account's desktop, which is started with this size and keyboard layout if it is not up
// already. The net.Conn speaks RFB and is the caller's to close; the Conn is used up. The errors are those of this
// package (ErrToken, ErrEpoch, ErrAccount, ErrBusy, ErrDesktop) or the network's.
func (c *Conn) Open(ctx context.Context, token []byte, width, height int, layout string) (net.Conn, error) {
	req := request{Kind: kindOpen, Token: token, Width: uint16(width), Height: uint16(height), Layout: layout}
	if int(req.Width) != width || int(req.Height) != height {
		return nil, fmt.Errorf("open desktop of %d x %d pixels: %w", width, height, ErrRequest)
	}
	if _, err := c.ask(ctx, openTime, req); err != nil {
		c.conn.Close()
		return nil, fmt.Errorf("open desktop: %w", err)
	}
	return c.conn, nil
}

// End spends the token on the end of the account's desktop, with all programs in it, and returns when it is over. One that does not
// run is no error. The errors are Open's.
func (c *Conn) End(ctx context.Context, token []byte) error {
	if _, err := c.ask(ctx, finishTime, request{Kind: kindEnd, Token: token}); err != nil {
		return fmt.Errorf("end desktop: %w", err)
	}
	return nil
}

// Close ends the connection.
func (c *Conn) Close() error { return c.conn.Close() }

func (c *Conn) ask(ctx context.Context, limit time.Duration, req request) (reply, error) {
	stop := context.AfterFunc(ctx, func() { c.conn.Close() })
	defer stop()
	if err := c.conn.SetDeadline(time.Now().Add(limit)); err != nil {
		return reply{}, err
	}
	var r reply
	err := writeFrame(c.conn, req)
	if err == nil {
		err = readFrame(c.conn, maxReply, &r)
	}
	if ctx.Err() != nil {
		return reply{}, ctx.Err()
	}
	if err != nil {
		return reply{}, err
	}
	if err := r.Code.err(); err != nil {
		return reply{}, err
	}
	return r, c.conn.SetDeadline(time.Time{})
}
