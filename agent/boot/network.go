// SPDX-License-Identifier: Apache-2.0

package boot

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"slices"
	"time"

	"sdbox/firmware/slot"
	"sdbox/internal/refusal"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// patience is how long something may be missing before a person is told.
type patience struct{ cable, address time.Duration }

// report is what the role network tells PID 1, one JSON object a line: exactly one field is set.
type report struct {
	Network *networkReport `json:"network,omitempty"`
	Site    *Site          `json:"site,omitempty"`
}

// networkReport is the state of the network and what it gave.
type networkReport struct {
	State     NetworkState `json:"state"`
	Adapter   string       `json:"adapter,omitempty"`
	Address   netip.Prefix `json:"address,omitzero"`
	Resolvers []netip.Addr `json:"resolvers,omitempty"`
}

func (r networkReport) equal(o networkReport) bool {
	return r.State == o.State && r.Adapter == o.Adapter && r.Address == o.Address && slices.Equal(r.Resolvers, o.Resolvers)
}

// netLease is what an asker says.
type netLease struct {
	adapter int
	lease   *lease // nil = it has ended
	six     bool   // by DHCPv6
}

// network is the role that gives the box its place in a network. One goroutine owns it; those that ask for addresses and the kernel only
// tell it what happened.
type network struct {
	log   *slog.Logger
	out   io.Writer
	table map[NetworkState]map[netTrigger]netRow

	settings slot.Settings
	state    NetworkState
	seen     bool       // there is an adapter
	adapter  netAdapter // the one that is used; its carrier says whether its cable is in
	patience patience
	waiting  *time.Timer // until patience has run out
	said     networkReport

	begin    func(six bool) // has one more ask on the adapter; nil while nobody asks
	stop     func()         // ends those that ask, and waits for them
	asking6  bool
	four     *lease // by DHCPv4, or static
	six      *lease // by DHCPv6
	static   []netip.Prefix
	advised  []netip.Prefix // addresses by router advertisement, which the kernel takes
	named    []netip.Addr   // resolvers by router advertisement
	got      chan netLease
	slots    chan slot.Settings
	tidings  chan tiding
	managed6 bool // a router says that there is DHCPv6
}

// RunNetwork is the role network, until ctx ends: it finds the cable, asks for an address or takes that of the two configuration slots,
// and says on out how it stands. The slots may come late, as disks do: until then the network gives all. slots is RunNetwork's to close.
func RunNetwork(ctx context.Context, slots io.ReadCloser, out io.Writer, log *slog.Logger) error {
	// A link takes 2.5 to 3.2 s to come up, an address some more.
	return runNetwork(ctx, slots, out, log, patience{cable: 6 * time.Second, address: 8 * time.Second})
}

func runNetwork(ctx context.Context, slots io.ReadCloser, out io.Writer, log *slog.Logger, p patience) error {
	n := &network{
		log: log, out: out, table: map[NetworkState]map[netTrigger]netRow{}, state: Starting, patience: p, waiting: time.NewTimer(p.cable),
		settings: slot.Default(), stop: func() {}, got: make(chan netLease), slots: make(chan slot.Settings), tidings: make(chan tiding),
	}
	for _, r := range networkTable() {
		if n.table[r.from] == nil {
			n.table[r.from] = map[netTrigger]netRow{}
		}
		n.table[r.from][r.on] = r
	}
	watch, err := netlinkSocket(unix.RTNLGRP_LINK, unix.RTNLGRP_IPV6_IFADDR, unix.RTNLGRP_IPV6_IFINFO, unix.RTNLGRP_ND_USEROPT)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	var beside errgroup.Group
	beside.Go(func() error { return watchKernel(ctx, watch, n.tidings) })
	beside.Go(func() error {
		n.readSlots(ctx, slots)
		return nil
	})
	err = n.loop(ctx)
	cancel()
	err = errors.Join(err, watch.Close())
	_ = slots.Close() // it may have been closed when it was read
	n.stop()
	return errors.Join(err, beside.Wait())
}

// readSlots hands the loop the settings of the site, once they are there.
func (n *network) readSlots(ctx context.Context, slots io.Reader) {
	settings := slot.Default()
	raw, err := io.ReadAll(io.LimitReader(slots, slot.Count*slot.Size))
	if err == nil && len(raw) > 0 {
		if settings, err = slot.Read(bytes.NewReader(raw)); err != nil {
			settings = slot.Default()
		}
	}
	if err != nil && ctx.Err() == nil {
		n.log.Warn("configuration slots", "err", err)
	}
	select {
	case n.slots <- settings:
	case <-ctx.Done():
	}
}

// onSlots takes the settings of the site. A static address takes the place of whatever the network gave.
func (n *network) onSlots(ctx context.Context, s slot.Settings) error {
	n.settings = s
	if err := n.tell(report{Site: &Site{Gateways: s.Gateways, Layout: s.Layout, Language: refusal.Lang(s.Language)}}); err != nil {
		return err
	}
	if s.Network != slot.Static || !n.adapter.carrier {
		return n.say()
	}
	n.stop()
	n.forget()
	return n.ask(ctx)
}

// loop is the one place where anything changes.
func (n *network) loop(ctx context.Context) error {
	err := n.look(ctx)
	for err == nil {
		select {
		case <-ctx.Done():
			return nil
		case t := <-n.tidings:
			err = n.onTiding(ctx, t)
		case s := <-n.slots:
			err = n.onSlots(ctx, s)
		case l := <-n.got:
			err = n.onLease(ctx, l)
		case <-n.waiting.C:
			err = n.onPatience(ctx)
		}
	}
	return err
}

func (n *network) onPatience(ctx context.Context) error {
	if n.state == Starting && !n.seen {
		return n.fire(ctx, noAdapter)
	}
	return n.fire(ctx, waited)
}

// raiseAll lets every adapter look for a cable.
func (n *network) raiseAll() error {
	list, err := listAdapters()
	for _, a := range list {
		if !a.raised {
			err = errors.Join(err, raise(a.index))
		}
	}
	return err
}

// look finds out which adapter has a cable. One that has is kept; else the first that has is taken.
func (n *network) look(ctx context.Context) error {
	if err := n.raiseAll(); err != nil {
		return err
	}
	list, err := listAdapters()
	if err != nil {
		return err
	}
	n.seen = len(list) > 0
	at := slices.IndexFunc(list, func(a netAdapter) bool { return a.index == n.adapter.index })
	if n.adapter.carrier && (at < 0 || !list[at].carrier) {
		n.adapter.carrier = false
		if err := n.fire(ctx, cableOut); err != nil {
			return err
		}
	}
	if n.seen && n.state == NoAdapter {
		if err := n.fire(ctx, adapterIn); err != nil {
			return err
		}
	}
	if !n.adapter.carrier {
		if next := slices.IndexFunc(list, func(a netAdapter) bool { return a.carrier }); next >= 0 {
			if list[next].index != n.adapter.index {
				n.forget()
			}
			n.adapter = list[next]
			return n.fire(ctx, cableIn)
		}
	}
	return nil
}

// fire looks the trigger up in the table and performs its row. A trigger without a row came too late, and changes nothing.
func (n *network) fire(ctx context.Context, t netTrigger) error {
	row, found := n.table[n.state][t]
	if !found {
		return nil
	}
	if row.from != row.to {
		n.log.Info("network", "from", string(row.from), "on", string(t), "to", string(row.to), "adapter", n.adapter.name)
	}
	n.state = row.to
	switch row.do {
	case ask:
		n.waiting.Reset(n.patience.address)
		if err := n.ask(ctx); err != nil {
			return err
		}
	case wait:
		n.waiting.Reset(n.patience.address)
	case rest:
		n.stop()
		n.doubt()
	}
	return n.say()
}

// ask begins to have an address on the adapter: that of the slot, or what the network gives. What it gave before stays until then: a
// cable that was out for a moment is in the same network again.
func (n *network) ask(ctx context.Context) error {
	if err := n.sweep(); err != nil {
		return err
	}
	if n.settings.Network == slot.Static {
		n.static = n.settings.Addresses
		for _, p := range n.static {
			if err := setAddress(n.adapter.index, p, 0); err != nil {
				n.log.Warn("address of the slot", "err", err)
			}
		}
		for _, r := range n.settings.Routers {
			if err := setRouter(n.adapter.index, r); err != nil {
				n.log.Warn("router of the slot", "err", err)
			}
		}
		return n.settle(ctx)
	}
	ctx, cancel := context.WithCancel(ctx)
	var askers errgroup.Group
	n.begin = func(six bool) {
		k := &asker{name: n.adapter.name, ask: ask4, renewal: renew4, failed: func(err error) { n.log.Info("no address", "err", err) }}
		if six {
			k.ask, k.renewal = ask6, ask6
		}
		index := n.adapter.index
		k.tell = func(l *lease) {
			select {
			case n.got <- netLease{index, l, six}:
			case <-ctx.Done():
			}
		}
		askers.Go(func() error {
			k.run(ctx)
			return nil
		})
	}
	n.stop = func() {
		cancel()
		_ = askers.Wait() // they return nothing
		n.begin, n.stop, n.asking6 = nil, func() {}, false
	}
	n.begin(false)
	return n.managed()
}

// managed asks for IPv6 too where a router says that somebody gives it (RFC 4861, 4.2); elsewhere nobody would answer.
func (n *network) managed() error {
	if n.managed6 && n.begin != nil && !n.asking6 {
		n.asking6 = true
		n.begin(true)
	}
	return nil
}

// onLease takes what an asker got into use.
func (n *network) onLease(ctx context.Context, got netLease) error {
	if got.adapter != n.adapter.index {
		return nil
	}
	held := &n.four
	if got.six {
		held = &n.six
	}
	old, l := *held, got.lease
	*held = l
	if l != nil {
		n.log.Info("lease", "address", l.address, "router", l.router, "resolvers", l.resolvers, "seconds", int(l.life.Seconds()))
		if err := n.configure(*l); err != nil { // the kernel does not take what the network gave
			n.log.Warn("lease", "err", err)
			*held = nil
		}
	}
	if old != nil && old.address.IsValid() && (*held == nil || (*held).address != old.address) {
		if err := removeAddress(n.adapter.index, old.address); err != nil {
			n.log.Warn("lease", "err", err)
		}
	}
	return n.settle(ctx)
}

func (n *network) configure(l lease) error {
	if l.address.IsValid() {
		if err := setAddress(n.adapter.index, l.address, l.life); err != nil {
			return fmt.Errorf("address %s: %w", l.address, err)
		}
	}
	if l.router.IsValid() {
		if err := setRouter(n.adapter.index, l.router); err != nil {
			return fmt.Errorf("router %s: %w", l.router, err)
		}
	}
	return nil
}

// onTiding takes what the kernel says. What adapters there are is looked up: a message can be lost.
func (n *network) onTiding(ctx context.Context, t tiding) error {
	if t.resolvers != nil && t.adapter == n.adapter.index {
		n.named = t.resolvers
	}
	if t.managed && t.adapter == n.adapter.index {
		n.managed6 = true
	}
	if err := n.look(ctx); err != nil {
		return err
	}
	if err := n.managed(); err != nil {
		return err
	}
	list, err := listAddresses(n.adapter.index, unix.AF_INET6)
	if err != nil {
		return err
	}
	n.advised = slices.DeleteFunc(list, func(p netip.Prefix) bool {
		return p.Addr().IsLinkLocalUnicast() || n.six != nil && p.Addr() == n.six.address.Addr() || slices.Contains(n.static, p)
	})
	return n.settle(ctx)
}

// settle says whether there is an address now.
func (n *network) settle(ctx context.Context) error {
	if n.address().IsValid() && n.adapter.carrier {
		return n.fire(ctx, addressed)
	}
	return n.fire(ctx, unaddressed)
}

// address is the one that is shown, of those that hold since the cable is in.
func (n *network) address() netip.Prefix {
	var all []netip.Prefix
	for _, l := range []*lease{n.four, n.six} {
		if l != nil && l.address.IsValid() && !l.doubted {
			all = append(all, l.address)
		}
	}
	all = slices.Concat(all, n.static, n.advised)
	if len(all) == 0 {
		return netip.Prefix{}
	}
	return all[0]
}

// doubt is what a cable that was out does to all that was got by it: it stays configured, for the cable is most often put back where it
// was, and counts no more until it was given again.
func (n *network) doubt() {
	for _, l := range []*lease{n.four, n.six} {
		if l != nil {
			l.doubted = true
		}
	}
	n.static, n.advised = nil, nil
}

// forget drops what another adapter had.
func (n *network) forget() {
	for _, l := range []*lease{n.four, n.six} {
		if l != nil && l.address.IsValid() {
			if err := removeAddress(n.adapter.index, l.address); err != nil {
				n.log.Warn("lease", "err", err)
			}
		}
	}
	n.four, n.six, n.static, n.advised, n.named, n.managed6 = nil, nil, nil, nil, nil, false
}

// sweep takes addresses away that an earlier life of this role left behind.
func (n *network) sweep() error {
	list, err := listAddresses(n.adapter.index, unix.AF_INET)
	if err != nil {
		return err
	}
	for _, p := range list {
		if n.four == nil || p != n.four.address {
			err = errors.Join(err, removeAddress(n.adapter.index, p))
		}
	}
	return err
}

// say tells PID 1 how it stands, if that is news. Before patience has run out it is not.
func (n *network) say() error {
	r := networkReport{State: n.state, Adapter: n.adapter.name}
	if n.state == Up {
		r.Address, r.Resolvers = n.address(), n.resolvers()
	}
	if r.equal(n.said) {
		return nil
	}
	n.said = r
	return n.tell(report{Network: &r})
}

// resolvers are those of the slot, or else those the network names.
func (n *network) resolvers() []netip.Addr {
	if len(n.settings.Resolvers) > 0 {
		return n.settings.Resolvers[:min(maxResolvers, len(n.settings.Resolvers))]
	}
	var all []netip.Addr
	for _, l := range []*lease{n.four, n.six} {
		if l != nil {
			all = append(all, l.resolvers...)
		}
	}
	all = append(all, n.named...)
	return all[:min(maxResolvers, len(all))]
}

func (n *network) tell(r report) error {
	if err := json.NewEncoder(n.out).Encode(r); err != nil {
		return fmt.Errorf("network: tell PID 1: %w", err)
	}
	return nil
}
