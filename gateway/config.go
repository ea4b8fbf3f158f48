// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"sdbox/gateway/frontdoor"
	"sdbox/gateway/store"
	"sdbox/internal/ident"
	"sdbox/internal/refusal"
	"sdbox/pki/ca"
	"sdbox/pki/profile"
)

// minLease keeps a mistyped lease from ending every session.
const minLease = time.Minute

// Config is everything a gateway is told from outside. All paths are absolute or relative to the working directory: whoever
// reads the configuration file resolves them.
type Config struct {
	Domain   ident.Domain
	Name     string       // short name: the gateway is NAME.DOMAIN
	State    string       // folder of the database and of the sealed audit log, 0700
	Language refusal.Lang // of a box's screen before a card is in
	Support  string       // whom a person calls; shown on every amber and red screen

	TLS        string // folder with the gateway's own cert.pem, key.pem and ca.pem
	FrontDoor  FrontDoorConfig
	Tunnel     TunnelConfig
	Devices    AuthorityConfig // issues device certificates at enrolment
	EKRoots    string          // file: roots of the TPM manufacturers, PEM; empty = a registered EK is enough
	References []string        // public release keys of the notes that hold reference values (C2SP signed-note form)
	Threshold  int             // how many of them must have signed a note
	Policies   string          // folder of Cedar policies; empty = the one that is built in
	Database   string          // data source name; empty = SQLite in State
	Console    string          // host:port of the operators' pages and API
	Health     string          // host:port, loopback only
	AuditKey   string          // file: signer key of the audit log's checkpoints (C2SP signed-note form)
}

// FrontDoorConfig is the part that boxes reach without a tunnel.
type FrontDoorConfig struct {
	Listen     string   // host:port, TCP
	Endpoints  []string // outer UDP host:port of the tunnel as boxes reach it, best first
	MaxWaiting int      // simultaneous connections that have proved nothing yet
}

// TunnelConfig is the WireGuard end of the gateway.
type TunnelConfig struct {
	Listen string        // host:port, UDP
	Key    string        // file: X25519 private key, 64 hexadecimal digits
	Lease  time.Duration // life of a peer; the box proves its state again after two thirds of it
}

// AuthorityConfig is a certificate authority on disk and what opens its key.
type AuthorityConfig struct {
	Dir      string // the folder that sdbox-pki init or lend made
	Identity string // file: age identity; empty = identity.txt in Dir
}

// Check looks at everything that can be checked without opening a file or a port, and names all that is wrong.
func (c Config) Check() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if _, err := ident.ParseDomain(string(c.Domain)); err != nil {
		bad("domain: %w", err)
	}
	if err := ident.CheckBubble(c.Name); err != nil {
		bad("name: want a short lower-case name such as gw1")
	}
	if c.State == "" {
		bad("state: name the folder of the database")
	}
	if c.Language != refusal.French && c.Language != refusal.English {
		bad("language: want fr or en, have %q", c.Language)
	}
	if len(c.Support) > 200 {
		bad("support: at most 200 bytes")
	}
	if c.Database != "" {
		if err := store.Check(c.Database); err != nil {
			bad("database: %w", err)
		}
	}
	c.checkAddresses(bad)
	if c.Tunnel.Lease < minLease || c.Tunnel.Lease > frontdoor.MaxLease {
		bad("tunnel.lease: want %v to %v, have %v", minLease, frontdoor.MaxLease, c.Tunnel.Lease)
	}
	if c.FrontDoor.MaxWaiting < 1 || c.FrontDoor.MaxWaiting > 65536 {
		bad("front_door.max_waiting: want 1 to 65536, have %d", c.FrontDoor.MaxWaiting)
	}
	if len(c.References) == 0 {
		bad("references: name at least one release key; without one no box can be believed")
	}
	if c.Threshold < 1 || c.Threshold > max(1, len(c.References)) {
		bad("threshold: want 1 to the number of references, have %d", c.Threshold)
	}
	if c.Devices.Dir == "" {
		bad("devices.dir: name the folder of the devices authority; sdbox-pki lend makes one for a gateway")
	}
	return errors.Join(errs...)
}

func (c Config) checkAddresses(bad func(string, ...any)) {
	for key, addr := range map[string]string{"front_door.listen": c.FrontDoor.Listen, "tunnel.listen": c.Tunnel.Listen, "console.listen": c.Console, "health.listen": c.Health} {
		if _, _, err := net.SplitHostPort(addr); err != nil {
			bad("%s: want host:port, have %q", key, addr)
		}
	}
	if host, _, err := net.SplitHostPort(c.Health); err == nil {
		if ip, err := netip.ParseAddr(host); err != nil || !ip.IsLoopback() {
			bad("health.listen: want a loopback address, have %q", c.Health)
		}
	}
	if len(c.FrontDoor.Endpoints) == 0 || len(c.FrontDoor.Endpoints) > 8 {
		bad("front_door.endpoints: name 1 to 8 addresses where boxes reach the tunnel")
	}
	for _, e := range c.FrontDoor.Endpoints {
		if _, err := netip.ParseAddrPort(e); err != nil {
			bad("front_door.endpoints: want address:port, have %q", e)
		}
	}
}

// CheckFiles looks into what the house gave the gateway, and names all that is wrong: the certificate is for this gateway, the
// authority is the one that issues to boxes, and both are of one house.
func (c Config) CheckFiles() error {
	own, err1 := c.identity()
	devices, err2 := ca.Open(c.Devices.Dir, profile.Devices, c.Devices.Identity)
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	if _, err := devices.Trust().VerifyGateway(own.TLS.Leaf.Raw, time.Now()); err != nil {
		return fmt.Errorf("%s and %s are not of one house: %w", c.TLS, c.Devices.Dir, err)
	}
	return nil
}

// identity reads the gateway's certificate and key, and refuses what is not for this gateway.
func (c Config) identity() (profile.Identity, error) {
	own, err := profile.LoadIdentity(c.TLS, c.Domain)
	if err != nil {
		return own, err
	}
	name, err := own.Trust.VerifyGateway(own.TLS.Leaf.Raw, time.Now())
	if err != nil {
		return own, fmt.Errorf("own certificate: %w", err)
	}
	if name != c.Name {
		return own, fmt.Errorf("own certificate: it is for gateway %s, the configuration says %s", name, c.Name)
	}
	return own, nil
}
