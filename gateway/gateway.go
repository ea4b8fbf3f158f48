// SPDX-License-Identifier: Apache-2.0

// Package gateway is the centre of sdbox as one program: it opens the rooms below it, joins them and serves until it is told to
// stop. The rooms do not know one another where they need not: that an inner address is a box is told here from the front door to
// the sessions.
package gateway

import (
	"context"
	"crypto"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"sdbox/firmware/reference"
	"sdbox/gateway/admission"
	"sdbox/gateway/appraise"
	"sdbox/gateway/audit"
	"sdbox/gateway/console"
	"sdbox/gateway/frontdoor"
	"sdbox/gateway/registry"
	"sdbox/gateway/releases"
	"sdbox/gateway/session"
	"sdbox/gateway/store"
	"sdbox/internal/attest"
	"sdbox/internal/refusal"
	"sdbox/internal/seal"
	"sdbox/internal/stream"
	"sdbox/internal/tunnel"
	"sdbox/internal/wire"
	"sdbox/pki/ca"
	"sdbox/pki/profile"
)

// tellTime is how long a box that was locked keeps its tunnel after its session ended, so that the reason reaches its screen.
const tellTime = 500 * time.Millisecond

// Gateway is a gateway with everything open. Run serves it, once; Close lets go of what Run has not.
type Gateway struct {
	conf     Config
	log      *slog.Logger
	store    *store.Store
	registry *registry.Registry
	identity profile.Identity
	verifier *appraise.Verifier
	releases *releases.Depot
	sealed   *audit.Log
	tunnel   *tunnel.Gateway
	mux      *stream.Mux

	after int64 // the last change that opening has seen; Run watches from there

	tunnelKey wire.Key   // public
	inner     netip.Addr // the gateway's inner address

	door     *frontdoor.Door
	sessions *session.Server
	console  *console.Console

	front, lines, pages, health net.Listener
	close                       []func() error // in the order of opening
}

// New opens everything a gateway needs: database, keys, ports. An error says which of them, and leaves nothing open.
func New(ctx context.Context, conf Config, log *slog.Logger) (*Gateway, error) {
	if err := conf.Check(); err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	g := &Gateway{conf: conf, log: log}
	for _, open := range []func(context.Context) error{g.openState, g.openTrust, g.openTunnel, g.openRooms, g.openPorts, g.announce} {
		if err := open(ctx); err != nil {
			return nil, errors.Join(err, g.Close())
		}
	}
	return g, nil
}

// Close closes what is open, the newest first.
func (g *Gateway) Close() error {
	var errs []error
	for i := len(g.close) - 1; i >= 0; i-- {
		if err := g.close[i](); err != nil && !errors.Is(err, net.ErrClosed) {
			errs = append(errs, err)
		}
	}
	g.close = nil
	return errors.Join(errs...)
}

func (g *Gateway) actor() string { return "gateway:" + g.conf.Name }

func (g *Gateway) openState(ctx context.Context) error {
	if err := os.MkdirAll(g.conf.State, 0o700); err != nil {
		return fmt.Errorf("state: %w", err)
	}
	release, err := lockState(g.conf.State)
	if err != nil {
		return err
	}
	g.close = append(g.close, release)
	if err := finishRestore(g.conf); err != nil {
		return err
	}
	if g.store, err = store.Open(ctx, g.conf.dsn()); err != nil {
		return err
	}
	g.close = append(g.close, g.store.Close)
	g.registry = registry.New(g.store)
	key, _, err := g.conf.logKey()
	if err != nil {
		return err
	}
	g.sealed, err = audit.Open(ctx, audit.Config{Store: g.store, Dir: g.conf.auditDir(), Key: key})
	return err
}

func (g *Gateway) openTrust(ctx context.Context) error {
	var err error
	if g.identity, err = g.conf.identity(); err != nil {
		return err
	}
	trust, err := reference.NewTrust(g.conf.Threshold, g.conf.References...)
	if err != nil {
		return fmt.Errorf("references: %w", err)
	}
	g.verifier = appraise.New(trust, "sdbox", g.conf.Name)
	if g.releases, err = releases.Open(filepath.Join(g.conf.State, "releases"), g.registry, trust); err != nil {
		return err
	}
	if g.after, err = g.store.Last(ctx); err != nil { // before the notes are read: what comes later is watched
		return err
	}
	return g.useReferences(ctx)
}

// useReferences reads the notes that the registry points at. A note that no longer opens, because the release keys or the registers
// that are quoted changed, is left out: the others still count.
func (g *Gateway) useReferences(ctx context.Context) error {
	rows, err := g.registry.References(ctx, "")
	if err != nil {
		return err
	}
	var notes [][]byte
	for _, row := range rows {
		if _, err := g.verifier.Open(row.Note); err != nil {
			g.log.Error("reference note left out", "room", "gateway", "note", row.Name, "err", err)
			continue
		}
		notes = append(notes, row.Note)
	}
	return g.verifier.Use(notes...)
}

func (g *Gateway) openTunnel(ctx context.Context) error {
	text, err := os.ReadFile(g.conf.Tunnel.Key)
	if err != nil {
		return fmt.Errorf("tunnel key: %w", err)
	}
	raw, err := hex.DecodeString(strings.TrimSpace(string(text)))
	if err != nil || len(raw) != 32 {
		return fmt.Errorf("tunnel key %s: want 64 hexadecimal digits", g.conf.Tunnel.Key)
	}
	network, err := g.registry.Network(ctx, g.actor())
	if err != nil {
		return err
	}
	udp, err := net.ResolveUDPAddr("udp", g.conf.Tunnel.Listen)
	if err != nil {
		return fmt.Errorf("tunnel.listen: %w", err)
	}
	g.tunnel, err = tunnel.NewGateway(tunnel.GatewayConfig{Key: [32]byte(raw), Address: network.Gateway, Prefix: network.Prefix, UDP: udp, Log: g.log})
	if err != nil {
		return err
	}
	g.close = append(g.close, g.tunnel.Close)
	public, err := tunnel.PublicKey([32]byte(raw))
	if err != nil {
		return err
	}
	g.tunnelKey, g.inner = public, network.Gateway
	if g.lines, err = g.tunnel.Listen(wire.LinePort); err != nil {
		return err
	}
	g.close = append(g.close, g.lines.Close)
	media, err := g.tunnel.ListenUDP(wire.MediaPort)
	if err != nil {
		return err
	}
	if g.mux, err = stream.NewMux(media); err != nil {
		return errors.Join(err, media.Close())
	}
	g.close = append(g.close, g.mux.Close)
	return nil
}

func (g *Gateway) openRooms(context.Context) error {
	c := g.conf
	devices, err := ca.Open(c.Devices.Dir, profile.Devices, c.Devices.Identity)
	if err != nil {
		return err
	}
	key, ok := g.identity.TLS.PrivateKey.(crypto.Signer)
	if !ok {
		return errors.New("own key: it cannot sign")
	}
	signer, err := seal.NewSigner(key, c.Domain.Gateway(c.Name))
	if err != nil {
		return err
	}
	roots, err := g.ekRoots()
	if err != nil {
		return err
	}
	policies, err := g.policies()
	if err != nil {
		return err
	}
	g.door, err = frontdoor.New(frontdoor.Config{
		Name: c.Name, Store: g.store, Registry: g.registry, Trust: g.identity.Trust, Identity: g.identity.TLS, Devices: devices, EKRoots: roots,
		Verifier: g.verifier, Signer: signer, Tunnel: g.tunnel, Releases: g.releases, TunnelKey: g.tunnelKey, GatewayAddress: g.inner, Endpoints: c.FrontDoor.Endpoints,
		Lease: c.Tunnel.Lease, MaxWaiting: c.FrontDoor.MaxWaiting, Language: c.Language, Support: c.Support, Log: g.log,
	})
	if err != nil {
		return err
	}
	sessions := session.Config{
		Name: c.Name, Store: g.store, Registry: g.registry, Policies: policies, Trust: g.identity.Trust, Domain: c.Domain, Identity: g.identity.TLS,
		Signer: signer, TunnelKey: g.tunnelKey, Mux: g.mux, Language: c.Language, Support: c.Support, Box: g.box, Log: g.log,
	}
	sessions.Dial = sessions.Bubbles()
	if g.sessions, err = session.New(sessions); err != nil {
		return err
	}
	g.console, err = console.New(console.Config{
		Gateway: c.Domain.Gateway(c.Name), Certificate: g.identity.TLS, Trust: g.identity.Trust, Store: g.store, Registry: g.registry,
		Sessions: g.sessions, Door: g.door, Audit: g.sealed, References: g.verifier, Releases: g.releases, Scratch: c.State, Log: g.log,
	})
	return err
}

// announce audits with which certificate and tunnel key the gateway serves from now on: what boxes and cards sign names them by hash.
func (g *Gateway) announce(ctx context.Context) error {
	e := store.Entry{Actor: g.actor(), Action: "gateway.up", Object: "gateway:" + g.conf.Name, Fields: map[string]string{
		"certificate": hex.EncodeToString(g.identity.TLS.Leaf.Raw), "tunnel_key": hex.EncodeToString(g.tunnelKey[:])}}
	return g.store.Change(ctx, e, func(*store.Tx) error { return nil })
}

// box is how the sessions learn what the front door knows: inside the tunnel, an address is a box.
func (g *Gateway) box(addr netip.Addr) (session.Box, bool) {
	l, ok := g.door.Lease(addr)
	return session.Box{Serial: l.Serial, TunnelKey: l.TunnelKey, Certificate: l.Certificate, Result: l.Result, Expires: l.Expires}, ok
}

func (g *Gateway) ekRoots() (*attest.EKRoots, error) {
	if g.conf.EKRoots == "" {
		return nil, nil
	}
	text, err := os.ReadFile(g.conf.EKRoots)
	if err != nil {
		return nil, fmt.Errorf("ek_roots: %w", err)
	}
	return attest.NewEKRoots(g.conf.Domain, text)
}

func (g *Gateway) policies() (*admission.Policies, error) {
	if g.conf.Policies == "" {
		return admission.Shipped()
	}
	return admission.Load(os.DirFS(g.conf.Policies))
}

func (g *Gateway) openPorts(ctx context.Context) error {
	for _, p := range []struct {
		key, addr string
		into      *net.Listener
	}{{"front_door.listen", g.conf.FrontDoor.Listen, &g.front}, {"console.listen", g.conf.Console, &g.pages}, {"health.listen", g.conf.Health, &g.health}} {
		ln, err := (&net.ListenConfig{}).Listen(ctx, "tcp", p.addr)
		if err != nil {
			return fmt.Errorf("%s: %w", p.key, err)
		}
		*p.into = ln
		g.close = append(g.close, ln.Close)
	}
	return nil
}

// Run serves until ctx ends or one of the rooms fails, then ends the rest and closes everything. The first failure is the error.
func (g *Gateway) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var all sync.WaitGroup
	for name, serve := range map[string]func(context.Context) error{
		"front door": func(ctx context.Context) error { return g.door.Serve(ctx, g.front) },
		"sessions":   func(ctx context.Context) error { return g.sessions.Serve(ctx, g.lines) },
		"console":    func(ctx context.Context) error { return g.console.Serve(ctx, g.pages) },
		"health":     g.serveHealth,
		"registry":   func(ctx context.Context) error { return g.watch(ctx, g.after) },
		"audit": func(ctx context.Context) error {
			return g.sealed.Run(ctx, func(err error) { g.log.Error("audit log not sealed", "room", "audit", "err", err) })
		},
	} {
		all.Go(func() {
			err := serve(ctx)
			if err == nil && ctx.Err() == nil {
				err = errors.New("ended by itself")
			}
			if err != nil && ctx.Err() == nil {
				cancel(fmt.Errorf("%s: %w", name, err))
			}
		})
	}
	g.log.Info("gateway up", "room", "gateway", "front_door", g.front.Addr().String(), "console", g.pages.Addr().String(), "inner", g.inner.String())
	<-ctx.Done()
	all.Wait()
	if err := context.Cause(ctx); !errors.Is(err, context.Canceled) {
		return errors.Join(err, g.Close())
	}
	// What the last sessions wrote is sealed before the database closes.
	last, done := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer done()
	return errors.Join(g.sealed.Seal(last), g.Close())
}

// watch follows the changes that concern the boxes themselves: new reference values, and boxes that may not be here any more. No box
// waits for the end of another.
func (g *Gateway) watch(ctx context.Context, after int64) error {
	var expelled sync.WaitGroup
	defer expelled.Wait()
	for e, err := range g.store.Watch(ctx, after) {
		if err != nil {
			return err
		}
		switch {
		case strings.HasPrefix(e.Kind, "reference."):
			if err := g.useReferences(ctx); err != nil {
				return err
			}
		case e.Kind == "lock.add" || e.Kind == "box.retire":
			serials, err := g.named(ctx, e.Touches)
			if err != nil {
				return err
			}
			for _, serial := range serials {
				expelled.Go(func() { g.expel(ctx, serial) })
			}
		}
	}
	return nil
}

// named returns the boxes that a lock names, each by itself or all of a site.
func (g *Gateway) named(ctx context.Context, names []string) (serials []string, err error) {
	for _, name := range names {
		if serial, found := strings.CutPrefix(name, "box:"); found {
			serials = append(serials, serial)
		}
		site, found := strings.CutPrefix(name, "site:")
		if !found {
			continue
		}
		boxes, err := g.registry.Boxes(ctx)
		if err != nil {
			return nil, err
		}
		for _, b := range boxes {
			if b.Site == site {
				serials = append(serials, b.Serial)
			}
		}
	}
	return serials, nil
}

// expel takes a box's tunnel away: first its person reads why, then the peer goes.
func (g *Gateway) expel(ctx context.Context, serial string) {
	limited, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	if err := g.sessions.StopBox(limited, serial, g.actor(), refusal.New(refusal.NotIntact)); err != nil {
		g.log.Warn("session of a locked box", "room", "gateway", "box", serial, "err", err)
	}
	told := time.NewTimer(tellTime)
	defer told.Stop()
	select {
	case <-told.C:
	case <-ctx.Done():
	}
	g.door.Drop(serial)
}

// serveHealth answers on loopback: alive, and ready when the database answers.
func (g *Gateway) serveHealth(ctx context.Context) error {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		if _, err := g.store.Last(r.Context()); err != nil {
			g.log.Error("not ready", "room", "gateway", "err", err)
			http.Error(w, "the database does not answer", http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	})
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 5 * time.Second, WriteTimeout: 5 * time.Second, MaxHeaderBytes: 8 << 10}
	stop := context.AfterFunc(ctx, func() { server.Close() })
	defer stop()
	if err := server.Serve(g.health); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
