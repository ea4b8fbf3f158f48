// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"

	"sdbox/gateway/store"
	"sdbox/internal/ident"
)

// Box is one SD-Box.
type Box struct {
	Serial  string
	EK      [32]byte       // SHA-256 that names the endorsement key
	AK      []byte         // TPM Name of the attestation key; nil until enrolled
	Device  []byte         // SHA-256 of the DER of its device certificate; nil until enrolled
	Model   string         // hardware model, chooses the reference values
	Country string         // where it stands, ISO 3166-1 alpha-2
	Site    string         // where it stands, for people
	Address netip.Addr     // inner IPv6 address; never given to another box
	Outer   []netip.Prefix // where its packets may come from; empty = anywhere
	State   State          // Registered, Enrolled or Retired
	Added   int64          // ms UTC
}

// maxOuter bounds a box's allow-list.
const maxOuter = 32

// Network is the inner network of the house.
type Network struct {
	Prefix  netip.Prefix // ULA /48 (RFC 4193, 3.2.2)
	Gateway netip.Addr   // the first address of the first /64; boxes are in the second
}

// Network returns the inner network, drawing it the first time.
func (r *Registry) Network(ctx context.Context, by string) (n Network, err error) {
	read := func(tx *store.Tx) error {
		var text string
		if err := tx.QueryRow(`SELECT prefix FROM network`).Scan(&text); err != nil {
			return err
		}
		n.Prefix, err = netip.ParsePrefix(text)
		n.Gateway = host(n.Prefix, 0, 1)
		return err
	}
	if err := r.store.View(ctx, read); err == nil || !errors.Is(err, store.ErrNotFound) {
		return n, err
	}
	raw := [16]byte{0xfd}
	rand.Read(raw[1:6]) // the 40 random bits of RFC 4193, 3.2.1
	prefix := netip.PrefixFrom(netip.AddrFrom16(raw), 48)
	e := store.Entry{Actor: by, Action: "network.draw", Object: "network:inner", Fields: map[string]string{"prefix": prefix.String()}}
	err = r.store.Change(ctx, e, func(tx *store.Tx) error {
		_, err := tx.Exec(`INSERT INTO network (id, prefix, last) VALUES (1, $1, 0)`, prefix.String())
		return err
	})
	if err != nil && !errors.Is(err, store.ErrExists) { // another caller drew first: its network stands
		return n, err
	}
	return n, r.store.View(ctx, read)
}

func host(prefix netip.Prefix, subnet uint16, n uint64) netip.Addr {
	raw := prefix.Addr().As16()
	binary.BigEndian.PutUint16(raw[6:8], subnet)
	binary.BigEndian.PutUint64(raw[8:16], n)
	return netip.AddrFrom16(raw)
}

// AddBox registers a box by its EK hash and gives it its inner address. Address, AK, Device, State and Added are set here.
func (r *Registry) AddBox(ctx context.Context, by string, b Box) (Box, error) {
	if err := checkBox(b); err != nil {
		return Box{}, err
	}
	if _, err := r.Network(ctx, by); err != nil {
		return Box{}, err
	}
	b.AK, b.Device, b.State, b.Added = nil, nil, Registered, nowMS()
	e := store.Entry{Actor: by, Action: "box.add", Object: BoxName(b.Serial), Fields: map[string]string{
		"ek_sha256": hex.EncodeToString(b.EK[:]), "model": b.Model, "country": b.Country, "site": b.Site, "outer": list(b.Outer)}}
	err := r.store.Change(ctx, e, func(tx *store.Tx) error {
		var prefix string
		var n int64
		if err := tx.QueryRow(`UPDATE network SET last = last + 1 RETURNING prefix, last`).Scan(&prefix, &n); err != nil {
			return err
		}
		p, err := netip.ParsePrefix(prefix)
		if err != nil {
			return err
		}
		b.Address = host(p, 1, uint64(n))
		tx.Note("address", b.Address.String())
		_, err = tx.Exec(`INSERT INTO box (serial, ek, model, country, site, address, outer_nets, state, added) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)`,
			b.Serial, b.EK[:], b.Model, b.Country, b.Site, b.Address.String(), list(b.Outer), string(b.State), b.Added)
		return err
	})
	if err != nil {
		return Box{}, err
	}
	return b, nil
}

func checkBox(b Box) error {
	if err := ident.CheckSerial(b.Serial); err != nil {
		return &InputError{"serial", "2 to 32 capital letters, digits and hyphens"}
	}
	if b.EK == ([32]byte{}) {
		return &InputError{"ek", "the SHA-256 of the endorsement key, 64 hexadecimal digits"}
	}
	if err := checkText("model", b.Model); err != nil {
		return err
	}
	if err := checkText("site", b.Site); err != nil {
		return err
	}
	if len(b.Outer) > maxOuter {
		return &InputError{"outer", fmt.Sprintf("at most %d prefixes", maxOuter)}
	}
	for _, p := range b.Outer {
		if !p.IsValid() || p.Masked() != p {
			return &InputError{"outer", "address prefixes without host bits, for example 192.0.2.0/24"}
		}
	}
	return checkCountry("country", b.Country)
}

// EnrolBox records the attestation key and device certificate of a registered box; for an enrolled one the AK must be the same.
func (r *Registry) EnrolBox(ctx context.Context, by, serial string, ak []byte, device [32]byte) error {
	if len(ak) == 0 || len(ak) > 66 {
		return &InputError{"ak", "a TPM Name"}
	}
	e := store.Entry{Actor: by, Action: "box.enrol", Object: BoxName(serial), Fields: map[string]string{
		"ak_name": hex.EncodeToString(ak), "certificate_sha256": hex.EncodeToString(device[:])}}
	return r.store.Change(ctx, e, func(tx *store.Tx) error {
		b, err := scanBox(tx.QueryRow(selectBox+` WHERE serial = $1`, serial))
		if err != nil {
			return err
		}
		if b.State == Retired || (b.AK != nil && !bytes.Equal(b.AK, ak)) {
			return fmt.Errorf("%s is %s and has another attestation key: %w", BoxName(serial), b.State, store.ErrConflict)
		}
		return tx.ExecOne(`UPDATE box SET ak = $2, device = $3, state = 'enrolled' WHERE serial = $1`, serial, ak, device[:])
	})
}

// RetireBox takes a box out of use for good. Its address is not given again.
func (r *Registry) RetireBox(ctx context.Context, by, serial, reason string) error {
	if err := checkText("reason", reason); err != nil {
		return err
	}
	e := store.Entry{Actor: by, Action: "box.retire", Object: BoxName(serial), Fields: map[string]string{"reason": reason}}
	return r.store.Change(ctx, e, func(tx *store.Tx) error {
		return tx.ExecOne(`UPDATE box SET state = 'retired' WHERE serial = $1 AND state <> 'retired'`, serial)
	})
}

const selectBox = `SELECT serial, ek, ak, device, model, country, site, address, outer_nets, state, added FROM box`

func scanBox(row store.Row) (b Box, err error) {
	var ek []byte
	var address, outer, state string
	if err := row.Scan(&b.Serial, &ek, &b.AK, &b.Device, &b.Model, &b.Country, &b.Site, &address, &outer, &state, &b.Added); err != nil {
		return b, err
	}
	copy(b.EK[:], ek)
	b.State = State(state)
	if b.Address, err = netip.ParseAddr(address); err != nil {
		return b, err
	}
	return b, readList(outer, &b.Outer)
}

// Box reads a box by its serial.
func (r *Registry) Box(ctx context.Context, serial string) (Box, error) {
	return queryOne(r, ctx, BoxName(serial), selectBox+` WHERE serial = $1`, []any{serial}, scanBox)
}

// BoxByEK reads the box with this endorsement key: who enrols is looked up by nothing else.
func (r *Registry) BoxByEK(ctx context.Context, ek [32]byte) (Box, error) {
	return queryOne(r, ctx, "box by endorsement key", selectBox+` WHERE ek = $1`, []any{ek[:]}, scanBox)
}

// Boxes lists every box by serial.
func (r *Registry) Boxes(ctx context.Context) ([]Box, error) {
	return query(r, ctx, "list boxes", selectBox+` ORDER BY serial`, nil, scanBox)
}
