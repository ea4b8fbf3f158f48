// SPDX-License-Identifier: Apache-2.0

package tunnel

import (
	"crypto/ecdh"
	"crypto/hmac"
	"crypto/subtle"
	"encoding/binary"
	"fmt"
	"hash"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/blake2s"
	"golang.org/x/crypto/chacha20poly1305"
	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
)

const (
	// indexesPerPeer: a peer has at most three key pairs and one handshake under way (device/keypair.go); older
	// indexes are dead.
	indexesPerPeer = 8

	// Of each initiation the guard does one X25519, 50 us, on the goroutine that receives everybody's packets. It
	// does at most 2,500 a second, what the engine itself can answer; boxes send a lost one again after 5 s.
	initiationsPerSecond = 2500
	initiationBurst      = 256
)

// guard is the gateway's conn.Bind: UDP sockets, and in front of wireguard the check that each packet of a peer comes
// from an address that peer may speak from. WireGuard alone follows a peer to any address.
//
// Which peer a packet is of stands in the packet, without any state of the device: an initiation carries the sender's
// static key sealed to ours (WireGuard paper, 5.4.2), every other kind the receiver index we gave out in our own
// initiation or response (5.4.3, 5.4.6). So a copied packet from a foreign address never reaches the engine.
//
// TLS connections of boxes enter here as well, see carry: their packets pass the same check, and may be of the box only
// whose connection it is.
type guard struct {
	conn.Bind  // the UDP sockets
	streams    *streams
	private    *ecdh.PrivateKey
	prologue   [blake2s.Size]byte // Hash(InitialHash || our public key)
	mac1Key    [blake2s.Size]byte
	refused    atomic.Uint64
	port       atomic.Uint32 // the outer UDP port, once open
	initiation bucket

	mu       sync.RWMutex
	peers    map[[32]byte]*outer      // guarded by mu
	indexes  map[uint32]*outer        // guarded by mu: our index -> peer
	probes   map[[tagSize]byte]*outer // guarded by mu
	prefixes prefixSet                // guarded by mu: every prefix of every peer

	moved chan struct{}     // capacity 1: see moves
	moves map[[32]byte]Path // guarded by mu: where peers are that moved since the last look
}

// outer is what the guard knows of a peer. Fields are guarded by guard.mu but for key, inner and path; a new allow-list is
// a new slice.
type outer struct {
	key     [32]byte
	inner   netip.Addr
	allowed []netip.Prefix
	indexes []uint32    // oldest first
	probes  []probeKey  // of this lease and the one before
	stream  *peerStream // its TLS connection, or nil
	gone    bool        // removed: learns no more indexes
	path    atomic.Pointer[Path]
}

func (p *outer) mayUse(address netip.Addr) bool {
	return slices.ContainsFunc(p.allowed, func(prefix netip.Prefix) bool { return prefix.Contains(address) })
}

// peerEndpoint is an outer address with the peer whose packet came from it.
type peerEndpoint struct {
	conn.Endpoint
	peer *outer
}

// newGuard makes a guard over sockets on every local address, or on the one given.
func newGuard(private [32]byte, local netip.Addr) (*guard, error) {
	key, err := ecdh.X25519().NewPrivateKey(private[:])
	if err != nil {
		return nil, fmt.Errorf("tunnel key: %w", err)
	}
	public := key.PublicKey().Bytes()
	g := &guard{
		Bind: conn.NewStdNetBind(), streams: newStreams(), private: key,
		prologue:   blake2s.Sum256(slices.Concat(device.InitialHash[:], public)),
		mac1Key:    blake2s.Sum256(slices.Concat([]byte(device.WGLabelMAC1), public)),
		initiation: bucket{rate: initiationsPerSecond, burst: initiationBurst},
		peers:      map[[32]byte]*outer{}, indexes: map[uint32]*outer{}, prefixes: prefixSet{}, probes: map[[tagSize]byte]*outer{},
		moved: make(chan struct{}, 1), moves: map[[32]byte]Path{},
	}
	if local.IsValid() {
		g.Bind = &udpBind{local: local}
	}
	return g, nil
}

// admit lets a peer speak from the addresses of allowed, in the place of those it had.
func (g *guard) admit(key [32]byte, inner netip.Addr, allowed []netip.Prefix, probes probeKey) {
	g.mu.Lock()
	defer g.mu.Unlock()
	p := g.peers[key]
	if p == nil {
		p = &outer{key: key, inner: inner}
		g.peers[key] = p
	}
	g.prefixes.add(allowed, 1)
	g.prefixes.add(p.allowed, -1)
	p.allowed = allowed
	if p.stream != nil && !p.mayUse(p.stream.address) {
		p.stream.conn.Close()
	}
	p.probes = append(p.probes, probes)
	g.probes[probes.tag] = p
	for len(p.probes) > 2 { // the box may not have the new one yet
		g.forgetProbesLocked(p, p.probes[0])
		p.probes = p.probes[1:]
	}
}

func (g *guard) forgetProbesLocked(p *outer, key probeKey) {
	if g.probes[key.tag] == p {
		delete(g.probes, key.tag)
	}
}

// dismiss drops every further packet of a peer and closes its TLS connection.
func (g *guard) dismiss(key [32]byte) {
	g.mu.Lock()
	defer g.mu.Unlock()
	p := g.peers[key]
	if p == nil {
		return
	}
	p.gone = true
	delete(g.peers, key)
	delete(g.moves, key)
	g.prefixes.add(p.allowed, -1)
	for _, index := range p.indexes {
		delete(g.indexes, index)
	}
	for _, probes := range p.probes {
		g.forgetProbesLocked(p, probes)
	}
	if p.stream != nil {
		p.stream.cancel()
	}
}

// Open opens the sockets and puts the check behind each of them.
func (g *guard) Open(port uint16) ([]conn.ReceiveFunc, uint16, error) {
	receive, actual, err := g.Bind.Open(port)
	if err != nil {
		return nil, 0, err
	}
	g.port.Store(uint32(actual))
	for i, fn := range receive {
		receive[i] = func(packets [][]byte, sizes []int, eps []conn.Endpoint) (int, error) {
			n, err := fn(packets, sizes, eps)
			for i := range n {
				if sizes[i] == 0 {
					continue
				}
				packet, from := packets[i][:sizes[i]], eps[i]
				if isProbe(packet) {
					sizes[i] = 0
					if g.answer(packet, from.DstIP().Unmap(), nil) {
						_ = g.Bind.Send([][]byte{packet}, from) // an answer that is lost is a probe that is lost
					}
					continue
				}
				peer := g.check(packet, from.DstIP().Unmap())
				if peer == nil {
					g.refused.Add(1)
					sizes[i] = 0 // wireguard skips it
					continue
				}
				eps[i] = &peerEndpoint{eps[i], peer}
			}
			return n, err
		}
	}
	return append(receive, g.streams.open()), actual, nil
}

// Close closes the sockets; the streams live on.
func (g *guard) Close() error {
	g.streams.close()
	return g.Bind.Close()
}

// Send notes which indexes we hand to which peer, and by which way it is reached, then sends. It never waits for a stream.
func (g *guard) Send(packets [][]byte, ep conn.Endpoint) error {
	to, ok := ep.(*peerEndpoint)
	if !ok {
		return conn.ErrWrongEndpointType
	}
	for _, packet := range packets {
		if kind := messageType(packet); kind == device.MessageInitiationType || kind == device.MessageResponseType {
			g.learn(to.peer, binary.LittleEndian.Uint32(packet[4:]))
		}
	}
	g.notePath(to)
	if _, byStream := to.Endpoint.(streamEndpoint); byStream {
		return g.sendStream(packets, to.peer)
	}
	return g.Bind.Send(packets, to.Endpoint)
}

// ParseEndpoint refuses: the gateway never calls a box, it answers.
func (g *guard) ParseEndpoint(string) (conn.Endpoint, error) { return nil, conn.ErrWrongEndpointType }

func (g *guard) learn(p *outer, index uint32) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if p.gone {
		return
	}
	g.indexes[index] = p
	p.indexes = append(p.indexes, index)
	if len(p.indexes) > indexesPerPeer {
		if old := p.indexes[0]; g.indexes[old] == p && !slices.Contains(p.indexes[1:], old) {
			delete(g.indexes, old)
		}
		p.indexes = p.indexes[1:]
	}
}

// check returns the peer a packet is of, or nil when it may not pass.
func (g *guard) check(packet []byte, address netip.Addr) *outer {
	var key [32]byte
	var index uint32
	kind := messageType(packet)
	switch {
	case kind == device.MessageInitiationType && len(packet) == device.MessageInitiationSize:
		var ok bool
		if key, ok = g.sender(packet, address); !ok {
			return nil
		}
	case kind == device.MessageResponseType && len(packet) == device.MessageResponseSize:
		index = binary.LittleEndian.Uint32(packet[8:])
	case kind == device.MessageCookieReplyType && len(packet) == device.MessageCookieReplySize,
		kind == device.MessageTransportType && len(packet) >= device.MessageTransportSize:
		index = binary.LittleEndian.Uint32(packet[4:])
	default:
		return nil
	}
	g.mu.RLock()
	defer g.mu.RUnlock()
	peer := g.indexes[index]
	if kind == device.MessageInitiationType {
		peer = g.peers[key]
	}
	if peer == nil || !peer.mayUse(address) {
		return nil
	}
	return peer
}

// sender opens the static key of an initiation, the first step of Noise IK (WireGuard paper, 5.4.2): what the engine
// will do again, once the address is known to be right. It costs nothing when no peer may speak from that address.
func (g *guard) sender(packet []byte, from netip.Addr) (key [32]byte, ok bool) {
	g.mu.RLock()
	known := g.prefixes.contains(from)
	g.mu.RUnlock()
	if !known {
		return key, false
	}
	ephemeral, sealed := packet[8:40], packet[40:88]
	mac, _ := blake2s.New128(g.mac1Key[:]) // only a long key is an error
	mac.Write(packet[:116])
	if subtle.ConstantTimeCompare(mac.Sum(nil), packet[116:132]) != 1 || !g.initiation.take(time.Now()) {
		return key, false
	}
	public, err := ecdh.X25519().NewPublicKey(ephemeral)
	if err != nil {
		return key, false
	}
	shared, err := g.private.ECDH(public)
	if err != nil {
		return key, false
	}
	digest := blake2s.Sum256(slices.Concat(g.prologue[:], ephemeral))
	chain := kdf(device.InitialChainKey[:], ephemeral, 1)
	aead, _ := chacha20poly1305.New(kdf(chain, shared, 2))
	opened, err := aead.Open(key[:0], device.ZeroNonce[:], sealed, digest[:])
	return key, err == nil && len(opened) == len(key)
}

// kdf is output number n of the HKDF over HMAC-BLAKE2s of WireGuard (paper, 5.4).
func kdf(chain, input []byte, n byte) []byte {
	sum := func(key []byte, parts ...[]byte) []byte {
		mac := hmac.New(func() hash.Hash {
			h, _ := blake2s.New256(nil) // no key, no error
			return h
		}, key)
		for _, part := range parts {
			mac.Write(part)
		}
		return mac.Sum(nil)
	}
	secret := sum(chain, input)
	var out []byte
	for i := byte(1); i <= n; i++ {
		out = sum(secret, out, []byte{i})
	}
	return out
}

// messageType reads the type and its three reserved zero bytes; 0 is no type.
func messageType(packet []byte) uint32 {
	if len(packet) < device.MinMessageSize {
		return 0
	}
	return binary.LittleEndian.Uint32(packet)
}

// prefixSet counts prefixes and finds whether any of them holds an address, at a cost that does not grow with the
// number of boxes.
type prefixSet map[netip.Prefix]int

func (s prefixSet) add(prefixes []netip.Prefix, n int) {
	for _, p := range prefixes {
		if s[p] += n; s[p] == 0 {
			delete(s, p)
		}
	}
}

func (s prefixSet) contains(address netip.Addr) bool {
	for bits := address.BitLen(); bits >= 0; bits-- {
		p, err := address.Prefix(bits)
		if err != nil {
			return false
		}
		if s[p] > 0 {
			return true
		}
	}
	return false
}

// bucket is a token bucket.
type bucket struct {
	rate, burst float64

	mu   sync.Mutex
	left float64   // guarded by mu
	last time.Time // guarded by mu
}

func (b *bucket) take(now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.left = min(b.burst, b.left+now.Sub(b.last).Seconds()*b.rate)
	b.last = now
	if b.left < 1 {
		return false
	}
	b.left--
	return true
}
