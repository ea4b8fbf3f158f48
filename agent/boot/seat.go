// SPDX-License-Identifier: Apache-2.0

package boot

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"sdbox/firmware/slot"

	"golang.org/x/sync/errgroup"
)

// configPartition is the partition of the two configuration slots, by its name in the partition table.
const configPartition = "sdbox-config"

// Limits of PID 1's side of the role network (implementation).
const (
	maxReport = 16 << 10               // bytes of one line
	diskEvery = 100 * time.Millisecond // looks for the disk at the start
	diskLast  = 10 * time.Second       // after the last module a disk may still take so long to show its partitions
)

// netSeat is PID 1's side of the role network: it feeds it the configuration slots and takes its reports, which it does not trust.
type netSeat struct {
	log    *slog.Logger
	sys    string          // normally /sys
	dev    string          // normally /dev
	resolv string          // normally resolvConf
	loaded <-chan struct{} // closed when the last module is in
	tell   func(Event)     // called for each event of the role
}

// serve feeds and hears one life of the role: reports ends with it, slots is closed when it has been fed. Both are serve's to close.
func (s *netSeat) serve(ctx context.Context, reports io.ReadCloser, slots io.WriteCloser) error {
	stop := context.AfterFunc(ctx, func() { reports.Close() })
	defer stop()
	feedCtx, cancel := context.WithCancel(ctx)
	var beside errgroup.Group
	beside.Go(func() error {
		if err := s.feed(feedCtx, slots); err != nil {
			s.log.Warn("configuration slots", "err", err)
		}
		return nil
	})
	err := s.hear(reports)
	cancel()
	return errors.Join(err, reports.Close(), beside.Wait())
}

// feed writes the partition's bytes, which PID 1 does not read for itself, as soon as there is one. Without one the role gets nothing.
func (s *netSeat) feed(ctx context.Context, slots io.WriteCloser) (err error) {
	defer func() { err = errors.Join(err, slots.Close()) }()
	tick := time.NewTicker(diskEvery)
	defer tick.Stop()
	loaded := s.loaded
	var last <-chan time.Time
	for {
		path, err := s.partition(configPartition)
		if err == nil {
			return s.copySlots(path, slots)
		}
		select {
		case <-tick.C:
		case <-loaded:
			loaded, last = nil, time.After(diskLast)
		case <-last:
			return err
		case <-ctx.Done():
			return nil
		}
	}
}

func (s *netSeat) copySlots(path string, slots io.Writer) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.Copy(slots, io.LimitReader(f, slot.Count*slot.Size))
	return err
}

// partition returns the device node of the partition of a name.
func (s *netSeat) partition(name string) (string, error) {
	found, err := filepath.Glob(filepath.Join(s.sys, "class/block/*/uevent"))
	if err != nil {
		return "", err
	}
	for _, path := range found {
		text, err := readBounded(path, maxUevent)
		if err != nil {
			continue // it has gone
		}
		if strings.Contains("\n"+string(text), "\nPARTNAME="+name+"\n") {
			return filepath.Join(s.dev, filepath.Base(filepath.Dir(path))), nil
		}
	}
	return "", fmt.Errorf("no partition %s", name)
}

// hear takes reports until the role ends. One that is not what it should be is logged and dropped: the role has met whatever a network
// may send.
func (s *netSeat) hear(reports io.Reader) error {
	lines := bufio.NewScanner(reports)
	lines.Buffer(nil, maxReport)
	for lines.Scan() {
		e, resolvers, err := parseReport(lines.Bytes())
		if err != nil {
			s.log.Warn("report of the network", "err", err)
			continue
		}
		if e.Network != nil && e.Network.State == Up {
			if err := writeResolvers(s.resolv, resolvers); err != nil {
				s.log.Error("network", "err", err)
			}
		}
		s.tell(e)
	}
	if err := lines.Err(); err != nil && !errors.Is(err, os.ErrClosed) {
		return fmt.Errorf("reports of the network: %w", err)
	}
	return nil
}

// parseReport reads one line of the role network and checks it again.
func parseReport(line []byte) (e Event, resolvers []netip.Addr, err error) {
	var r report
	d := json.NewDecoder(bytes.NewReader(line))
	d.DisallowUnknownFields()
	if err := d.Decode(&r); err != nil {
		return Event{}, nil, err
	}
	switch {
	case (r.Network == nil) == (r.Site == nil):
		return Event{}, nil, errors.New("not one thing")
	case r.Site != nil:
		s := slot.Settings{Network: slot.DHCP, Gateways: r.Site.Gateways, Layout: r.Site.Layout, Language: string(r.Site.Language)}
		return Event{Site: r.Site}, nil, s.Check()
	}
	n := r.Network
	switch n.State {
	case NoAdapter, NoCable, NoAddress, Up, Starting, Asking:
	default:
		return Event{}, nil, fmt.Errorf("state %.20q", n.State)
	}
	if len(n.Resolvers) > maxResolvers || (n.State == Up) != n.Address.IsValid() {
		return Event{}, nil, errors.New("an address or resolvers that cannot be")
	}
	for _, a := range n.Resolvers {
		if got, ok := machineAddress(a.AsSlice()); !ok || got != a {
			return Event{}, nil, fmt.Errorf("resolver %s", a)
		}
	}
	e.Network = &Network{State: n.State}
	if n.Address.IsValid() {
		e.Network.Address = n.Address.String()
	}
	if len(n.Resolvers) > 0 {
		e.Network.Resolver = n.Resolvers[0].String()
	}
	return e, n.Resolvers, nil
}

// writeResolvers puts resolv.conf(5) in place whole: the agent reads it while it is written.
func writeResolvers(path string, resolvers []netip.Addr) error {
	var b strings.Builder
	for _, r := range resolvers {
		fmt.Fprintf(&b, "nameserver %s\n", r)
	}
	b.WriteString("options timeout:2 attempts:2\n")
	if err := os.WriteFile(path+".new", []byte(b.String()), 0o644); err != nil {
		return fmt.Errorf("resolvers: %w", err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		return fmt.Errorf("resolvers: %w", err)
	}
	return nil
}
