// SPDX-License-Identifier: Apache-2.0

// Package house runs the whole of sdbox on one machine: each box, each bubble and the gateway is a place with its own
// namespaces, in which the shipped programs run with their own configuration files. Only hardware and links are simulated.
package house

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"

	labnet "sdbox/internal/lab/net"

	"golang.org/x/sys/unix"
)

// House owns places and the links between them. Its methods may be called from any goroutine.
type House struct {
	dir string   // absolute; holds places/, log/
	bin string   // absolute; the programs of sdbox, or empty
	hub *os.File // network namespace in which the forwarders listen; no program runs there

	mu     sync.Mutex
	places []*Place       // guarded by mu
	links  []*labnet.Link // guarded by mu
}

// Open makes an empty house in dir, which is created where missing. Places find the folder bin at /run/bin; it may be empty
// if no program of sdbox is to run. The process needs root (CAP_SYS_ADMIN).
func Open(dir, bin string) (*House, error) {
	for _, p := range []*string{&dir, &bin} {
		if *p == "" {
			continue
		}
		abs, err := filepath.Abs(*p)
		if err != nil {
			return nil, err
		}
		*p = abs
	}
	for _, d := range []string{"places", "log"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			return nil, fmt.Errorf("open house: %w", err)
		}
	}
	h := &House{dir: dir, bin: bin}
	err := onThread(func() (err error) {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("open house: new network: %w", err)
		}
		h.hub, err = os.Open(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()))
		return err
	})
	if err != nil {
		return nil, err
	}
	return h, nil
}

// Dir is the house's folder, absolute.
func (h *House) Dir() string { return h.dir }

// Logs is the folder of the log files, PLACE.PROGRAM.log.
func (h *House) Logs() string { return filepath.Join(h.dir, "log") }

// Close ends every place and link, last made first. Files stay.
func (h *House) Close() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	var errs []error
	for _, l := range slices.Backward(h.links) {
		errs = append(errs, l.Close())
	}
	for _, p := range slices.Backward(h.places) {
		errs = append(errs, p.Close())
	}
	h.links, h.places = nil, nil
	return errors.Join(append(errs, h.hub.Close())...)
}

// NewPlace starts an empty place. Its folder is DIR/places/NAME, its account list the host's system accounts and these.
func (h *House) NewPlace(name string, accounts ...Account) (*Place, error) {
	p, err := newPlace(placeSpec{
		Name: name, Dir: filepath.Join(h.dir, "places", name), House: h.dir, Bin: h.bin, Accounts: accounts,
	}, h.Logs())
	if err != nil {
		return nil, fmt.Errorf("new place: %w", err)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.places = append(h.places, p)
	return p, nil
}

// End is one end of a link: an interface of a place and its IPv4 address with prefix length.
type End struct {
	Place     *Place
	Interface string
	Address   string // "10.71.1.2/24"
}

// Join lays a link between two places through a forwarder whose conditions can be set. The first end is the one that loses
// its carrier when the link is unplugged. Number tells links apart, 1 to 999.
func (h *House) Join(number int, a, b End) (*labnet.Link, error) {
	nearA, nearB := fmt.Sprintf("a%d", number), fmt.Sprintf("b%d", number)
	var link *labnet.Link
	err := inNetwork(h.hub, func() error {
		if err := runIP("link", "add", nearA, "type", "veth", "peer", "name", a.Interface, "netns", fmt.Sprint(a.Place.pid)); err != nil {
			return err
		}
		if err := runIP("link", "add", nearB, "type", "veth", "peer", "name", b.Interface, "netns", fmt.Sprint(b.Place.pid)); err != nil {
			return err
		}
		for _, name := range []string{nearA, nearB} {
			if err := withoutIPv6(name); err != nil {
				return err
			}
			if err := runIP("link", "set", name, "up"); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("join %s and %s: %w", a.Place.Name, b.Place.Name, err)
	}
	if err := errors.Join(a.raise(), b.raise()); err != nil {
		return nil, err
	}
	if err := inNetwork(h.hub, func() (err error) { link, err = labnet.Open(nearA, nearB); return err }); err != nil {
		return nil, fmt.Errorf("join %s and %s: %w", a.Place.Name, b.Place.Name, err)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.links = append(h.links, link)
	return link, nil
}

// Wire joins two places by a plain veth pair, without a forwarder.
func (h *House) Wire(a, b End) error {
	err := a.Place.configure("link", "add", a.Interface, "type", "veth", "peer", "name", b.Interface, "netns", fmt.Sprint(b.Place.pid))
	if err != nil {
		return fmt.Errorf("wire %s and %s: %w", a.Place.Name, b.Place.Name, err)
	}
	return errors.Join(a.raise(), b.raise())
}

// withoutIPv6 keeps IPv6 off an interface of the calling thread's network: the outer network of the lab is IPv4, and neighbour
// discovery would be noise in a capture.
func withoutIPv6(name string) error {
	err := os.WriteFile("/proc/sys/net/ipv6/conf/"+name+"/disable_ipv6", []byte("1"), 0)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("interface %s: %w", name, err)
	}
	return nil
}

// raise gives an interface its address and takes it up.
func (e End) raise() error {
	return e.Place.inNetwork(func() error {
		if err := withoutIPv6(e.Interface); err != nil {
			return err
		}
		if err := runIP("addr", "add", e.Address, "dev", e.Interface); err != nil {
			return err
		}
		return runIP("link", "set", e.Interface, "up")
	})
}
