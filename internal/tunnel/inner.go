// SPDX-License-Identifier: Apache-2.0

package tunnel

import (
	"io"
	"net"
	"net/netip"
	"sync"

	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
)

// innerConns knows the gateway's inner sockets, so that those of a box can be closed with its peer and all of them
// with the gateway.
type innerConns struct {
	mu      sync.Mutex
	closed  bool                                   // guarded by mu
	byBox   map[netip.Addr]map[*innerConn]struct{} // guarded by mu; a key exists while the box has a peer
	sockets map[io.Closer]struct{}                 // guarded by mu: listeners and packet sockets
}

func newInnerConns() *innerConns {
	return &innerConns{byBox: map[netip.Addr]map[*innerConn]struct{}{}, sockets: map[io.Closer]struct{}{}}
}

func (c *innerConns) admit(box netip.Addr) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.byBox[box] == nil {
		c.byBox[box] = map[*innerConn]struct{}{}
	}
}

func (c *innerConns) dismiss(box netip.Addr) {
	c.mu.Lock()
	conns := c.byBox[box]
	delete(c.byBox, box)
	c.mu.Unlock()
	for conn := range conns {
		conn.Conn.Close()
	}
}

// keep registers a connection, or reports that its box has no peer any more.
func (c *innerConns) keep(conn *innerConn) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	conns := c.byBox[conn.box]
	if conns == nil {
		return false
	}
	conns[conn] = struct{}{}
	return true
}

func (c *innerConns) forget(conn *innerConn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.byBox[conn.box], conn)
}

func (c *innerConns) keepSocket(s io.Closer) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		s.Close()
		return net.ErrClosed
	}
	c.sockets[s] = struct{}{}
	return nil
}

func (c *innerConns) forgetSocket(s io.Closer) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.sockets, s)
}

func (c *innerConns) close() {
	c.mu.Lock()
	c.closed = true
	sockets := c.sockets
	c.sockets = map[io.Closer]struct{}{}
	c.mu.Unlock()
	for s := range sockets {
		s.Close()
	}
}

func (c *innerConns) listen(l *gonet.TCPListener) (net.Listener, error) {
	in := &innerListener{TCPListener: l, conns: c}
	if err := c.keepSocket(in); err != nil {
		return nil, err
	}
	return in, nil
}

func (c *innerConns) packets(u *gonet.UDPConn) (net.PacketConn, error) {
	in := &innerPackets{UDPConn: u, conns: c}
	if err := c.keepSocket(in); err != nil {
		return nil, err
	}
	return in, nil
}

type innerListener struct {
	*gonet.TCPListener
	conns *innerConns
	once  sync.Once
}

// Accept returns the next connection of a box that has a peer, and net.ErrClosed after Close.
func (l *innerListener) Accept() (net.Conn, error) {
	for {
		raw, err := l.TCPListener.Accept()
		if err != nil {
			return nil, &net.OpError{Op: "accept", Net: "tcp", Addr: l.Addr(), Err: net.ErrClosed} // netstack has no other
		}
		remote, ok := raw.RemoteAddr().(*net.TCPAddr) // a typed nil when the connection was reset at once
		if !ok || remote == nil {
			raw.Close()
			continue
		}
		conn := &innerConn{Conn: raw, conns: l.conns, box: remote.AddrPort().Addr()}
		if l.conns.keep(conn) {
			return conn, nil
		}
		raw.Close()
	}
}

// Close makes Accept return.
func (l *innerListener) Close() error {
	l.once.Do(func() {
		l.conns.forgetSocket(l)
		l.TCPListener.Shutdown()
		l.TCPListener.Close()
	})
	return nil
}

type innerConn struct {
	net.Conn
	conns *innerConns
	box   netip.Addr
}

// Close closes the connection.
func (c *innerConn) Close() error {
	c.conns.forget(c)
	return c.Conn.Close()
}

type innerPackets struct {
	*gonet.UDPConn
	conns *innerConns
}

// Close makes ReadFrom return.
func (c *innerPackets) Close() error {
	c.conns.forgetSocket(c)
	return c.UDPConn.Close()
}
