// SPDX-License-Identifier: Apache-2.0

package frontdoor

import (
	"net"
	"net/netip"
	"slices"
	"sync"
)

// perSource is how many connections that have proved nothing one address (a /64 for IPv6) may hold at once: a site behind one address
// has tens of boxes.
const perSource = 32

// crowd is who is at the door. A connection that is one too many takes the place of another, the oldest of the source that holds most:
// whoever holds places without a word, or floods, takes them from himself. A box that showed its certificate has a place apart, one.
type crowd struct {
	max int

	mu      sync.Mutex
	waiting []*guest             // guarded by mu; they have proved nothing yet, the oldest first
	sources map[netip.Prefix]int // guarded by mu; how many of waiting come from where
	boxes   map[string]*guest    // guarded by mu; by serial
}

// guest is a connection at the door.
type guest struct {
	conn   net.Conn
	source netip.Prefix
	serial string // guarded by crowd.mu; empty until it showed a box's certificate
}

func newCrowd(most int) *crowd {
	return &crowd{max: most, sources: map[netip.Prefix]int{}, boxes: map[string]*guest{}}
}

// enter gives a connection its place, or reports that it comes from nowhere.
func (c *crowd) enter(conn net.Conn) (*guest, bool) {
	peer, err := netip.ParseAddrPort(conn.RemoteAddr().String())
	if err != nil {
		return nil, false
	}
	addr := peer.Addr().Unmap().WithZone("")
	bits := 32
	if addr.Is6() {
		bits = 64
	}
	source, err := addr.Prefix(bits)
	if err != nil {
		return nil, false
	}
	g := &guest{conn: conn, source: source}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.sources[source] >= perSource:
		c.oustLocked(c.oldestLocked(func(from netip.Prefix) bool { return from == source }))
	case len(c.waiting) >= c.max:
		c.relieveLocked()
	}
	c.waiting = append(c.waiting, g)
	c.sources[source]++
	return g, true
}

// relieve makes room when the system has none left.
func (c *crowd) relieve() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.relieveLocked()
}

func (c *crowd) relieveLocked() {
	most := 0
	for _, n := range c.sources {
		most = max(most, n)
	}
	if most > 0 {
		c.oustLocked(c.oldestLocked(func(from netip.Prefix) bool { return c.sources[from] == most }))
	}
}

// oldestLocked finds the first of those that wait which comes from such a source; there must be one.
func (c *crowd) oldestLocked(of func(source netip.Prefix) bool) int {
	return slices.IndexFunc(c.waiting, func(g *guest) bool { return of(g.source) })
}

// oustLocked closes a waiting connection; its goroutine notices.
func (c *crowd) oustLocked(i int) {
	g := c.waiting[i]
	c.dropLocked(i)
	g.conn.Close()
}

// dropLocked takes a connection out of those that wait.
func (c *crowd) dropLocked(i int) {
	source := c.waiting[i].source
	c.waiting = slices.Delete(c.waiting, i, i+1)
	if c.sources[source]--; c.sources[source] == 0 {
		delete(c.sources, source)
	}
}

// know gives a connection the place of the box whose certificate it showed; an older one of the same box is closed.
func (c *crowd) know(g *guest, serial string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	i := slices.Index(c.waiting, g)
	if i < 0 {
		return // ousted meanwhile
	}
	c.dropLocked(i)
	if before := c.boxes[serial]; before != nil {
		before.conn.Close()
	}
	g.serial = serial
	c.boxes[serial] = g
}

// leave gives a place back; it may be called again.
func (c *crowd) leave(g *guest) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if i := slices.Index(c.waiting, g); i >= 0 {
		c.dropLocked(i)
	}
	if c.boxes[g.serial] == g {
		delete(c.boxes, g.serial)
	}
}
