// SPDX-License-Identifier: Apache-2.0

// Package slot reads and writes the configuration slots of an SD-Box: two places on its disk that hold network settings and hints
// where the centre may be reached. Nothing in them is trusted: they can keep a box from the centre, and do nothing else to it.
package slot

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"

	"github.com/pelletier/go-toml/v2"
)

// The partition (sdbox-config) holds two slots, one after the other, each of this form, numbers little-endian:
//
//	 0  8 bytes   "SDBXCFG1"
//	 8  u32       counter: the higher of two good slots is the newer
//	12  u32       length of the text in bytes
//	16  32 bytes  SHA-256 of bytes 0..15 and the text
//	48            the text: strict TOML, the keys of Settings
const (
	// Size is the size of one slot in bytes, Count how many a partition holds.
	Size  = 64 << 10
	Count = 2

	magic  = "SDBXCFG1"
	header = 48
)

// Limits of the settings (implementation).
const (
	maxList = 8   // entries of any list
	maxName = 261 // bytes of one gateway's host:port
)

// ErrNone says that no slot of a partition is good: it was never written, or is damaged.
var ErrNone = errors.New("no good configuration slot")

// Mode says where a box has its address from.
type Mode string

// The modes.
const (
	DHCP   Mode = "dhcp"   // from the network: DHCPv4, router advertisements, DHCPv6
	Static Mode = "static" // from the slot
)

// Settings are what a site may tell a box.
type Settings struct {
	Network   Mode           `toml:"network" json:"network"`
	Addresses []netip.Prefix `toml:"addresses,omitempty" json:"addresses,omitempty"` // only static, with the length of the network's prefix: 192.0.2.10/24
	Routers   []netip.Addr   `toml:"routers,omitempty" json:"routers,omitempty"`     // only static, one a family
	Resolvers []netip.Addr   `toml:"resolvers,omitempty" json:"resolvers,omitempty"` // used in place of those the network names
	Gateways  []string       `toml:"gateways,omitempty" json:"gateways,omitempty"`   // host:port of front doors to try before those of the image
	Layout    string         `toml:"layout,omitempty" json:"layout,omitempty"`       // keyboard layout, as the agent's configuration
	Language  string         `toml:"language,omitempty" json:"language,omitempty"`   // "fr" or "en", until the centre says
}

// Default is what a box does without a good slot.
func Default() Settings { return Settings{Network: DHCP} }

// Check says whether these settings can be used, whoever they came from.
func (s Settings) Check() error {
	if len(s.Addresses) > maxList || len(s.Routers) > maxList || len(s.Resolvers) > maxList || len(s.Gateways) > maxList {
		return fmt.Errorf("a list has more than %d entries", maxList)
	}
	switch {
	case s.Network != DHCP && s.Network != Static:
		return fmt.Errorf("network %.20q: want dhcp or static", s.Network)
	case s.Network == DHCP && len(s.Addresses)+len(s.Routers) > 0:
		return errors.New("addresses and routers are for network static")
	case s.Network == Static && len(s.Addresses) == 0:
		return errors.New("network static needs addresses")
	}
	for _, p := range s.Addresses {
		if !p.IsValid() || !usable(p.Addr()) || p.Bits() == 0 {
			return fmt.Errorf("address %s is not one of a machine in a network", p)
		}
	}
	for _, list := range [][]netip.Addr{s.Routers, s.Resolvers} {
		for _, a := range list {
			if !usable(a) {
				return fmt.Errorf("address %s is not one of a machine", a)
			}
		}
	}
	for _, g := range s.Gateways {
		if err := checkGateway(g); err != nil {
			return err
		}
	}
	if s.Language != "" && s.Language != "fr" && s.Language != "en" {
		return fmt.Errorf("language %.20q: want fr or en", s.Language)
	}
	if !word(s.Layout) {
		return fmt.Errorf("layout %.20q: want the name of a keyboard layout", s.Layout)
	}
	return nil
}

// usable says whether an address can be one machine's on a network. IPv4 in IPv6 is refused: one address, one way to write it.
func usable(a netip.Addr) bool {
	return a.IsValid() && !a.Is4In6() && !a.IsUnspecified() && !a.IsLoopback() && !a.IsMulticast() && a.Zone() == "" &&
		a != netip.AddrFrom4([4]byte{255, 255, 255, 255})
}

func checkGateway(g string) error {
	host, port, err := net.SplitHostPort(g)
	number, numberErr := strconv.ParseUint(port, 10, 16)
	if err != nil || numberErr != nil || number == 0 || host == "" || len(g) > maxName {
		return fmt.Errorf("gateway %.80q: want host:port", g)
	}
	for _, c := range []byte(host) {
		if !letter(c) && c != '.' && c != ':' {
			return fmt.Errorf("gateway %.80q: want host:port", g)
		}
	}
	return nil
}

// word says whether s is at most 32 letters, digits, - and _.
func word(s string) bool {
	for _, c := range []byte(s) {
		if !letter(c) {
			return false
		}
	}
	return len(s) <= 32
}

func letter(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_'
}

// Encode makes the bytes of one slot, Size of them.
func Encode(counter uint32, s Settings) ([]byte, error) {
	if err := s.Check(); err != nil {
		return nil, fmt.Errorf("configuration slot: %w", err)
	}
	text, err := toml.Marshal(s)
	if err != nil {
		return nil, fmt.Errorf("configuration slot: %w", err)
	}
	if len(text) > Size-header {
		return nil, fmt.Errorf("configuration slot: %d bytes of text, at most %d fit", len(text), Size-header)
	}
	raw := make([]byte, Size)
	copy(raw, magic)
	binary.LittleEndian.PutUint32(raw[8:], counter)
	binary.LittleEndian.PutUint32(raw[12:], uint32(len(text)))
	copy(raw[header:], text)
	copy(raw[16:], digest(raw, len(text)))
	return raw, nil
}

// Parse reads one slot and returns its counter and settings.
func Parse(raw []byte) (uint32, Settings, error) {
	if len(raw) < header || string(raw[:8]) != magic {
		return 0, Settings{}, errors.New("configuration slot: not written")
	}
	counter, length := binary.LittleEndian.Uint32(raw[8:]), binary.LittleEndian.Uint32(raw[12:])
	if length > Size-header || int(length) > len(raw)-header {
		return 0, Settings{}, fmt.Errorf("configuration slot: a text of %d bytes does not fit", length)
	}
	if !bytes.Equal(raw[16:header], digest(raw, int(length))) {
		return 0, Settings{}, errors.New("configuration slot: its hash is another")
	}
	var s Settings
	d := toml.NewDecoder(bytes.NewReader(raw[header : header+int(length)])).DisallowUnknownFields()
	if err := d.Decode(&s); err != nil {
		return 0, Settings{}, fmt.Errorf("configuration slot: %w", err)
	}
	if err := s.Check(); err != nil {
		return 0, Settings{}, fmt.Errorf("configuration slot: %w", err)
	}
	return counter, s, nil
}

func digest(raw []byte, length int) []byte {
	h := sha256.New()
	h.Write(raw[:16])
	h.Write(raw[header : header+length])
	return h.Sum(nil)
}

// Read returns the settings of the newest good slot of a partition. Without one the error is ErrNone and says what is wrong with each.
func Read(partition io.ReaderAt) (Settings, error) {
	var newest Settings
	var highest uint32
	found := false
	var why []error
	for i := range Count {
		raw := make([]byte, Size)
		if n, err := partition.ReadAt(raw, int64(i)*Size); n < Size {
			why = append(why, fmt.Errorf("slot %d: %w", i, err))
			continue
		}
		counter, settings, err := Parse(raw)
		if err != nil {
			why = append(why, fmt.Errorf("slot %d: %w", i, err))
			continue
		}
		if !found || counter > highest {
			newest, highest, found = settings, counter, true
		}
	}
	if !found {
		return Settings{}, errors.Join(append([]error{ErrNone}, why...)...)
	}
	return newest, nil
}
