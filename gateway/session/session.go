// SPDX-License-Identifier: Apache-2.0

// Package session lets people work: it takes a box's line from card-in over the finger to a bubble's picture, and lets go of
// it again. One goroutine owns each line and everything of its session; what a session may do next is a table.
package session

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"log/slog"
	"net/netip"
	"time"

	"sdbox/gateway/admission"
	"sdbox/gateway/registry"
	"sdbox/gateway/store"
	"sdbox/internal/ident"
	"sdbox/internal/refusal"
	"sdbox/internal/seal"
	"sdbox/internal/stream"
	"sdbox/internal/wire"
	"sdbox/pki/profile"
)

// Box is what stands behind an inner address while its attestation result stands.
type Box struct {
	Serial      string
	TunnelKey   wire.Key
	Certificate [32]byte // SHA-256 of the DER of its device certificate
	Result      [32]byte // SHA-256 of the attestation result
	Expires     time.Time
}

// Config is what the sessions of a gateway need.
type Config struct {
	Name     string // the gateway's short name
	Store    *store.Store
	Registry *registry.Registry
	Policies *admission.Policies
	Trust    *profile.Trust
	Domain   ident.Domain
	Identity tls.Certificate // the gateway's own, towards bubbles; Leaf is set
	Signer   *seal.Signer    // of grants and bubble tokens, with the identity's key

	TunnelKey wire.Key    // the gateway's public one
	Mux       *stream.Mux // media of all boxes, on the inner UDP port

	Language refusal.Lang // of a screen that knows no person yet
	Support  string

	// Box says which box stands behind an inner address now; false when none does.
	Box func(netip.Addr) (Box, bool)
	// Dial connects to a bubble; Bubbles is the real one.
	Dial func(context.Context, registry.Bubble) (Bubble, error)

	Log *slog.Logger
}

func (c *Config) check() error {
	if c.Store == nil || c.Registry == nil || c.Policies == nil || c.Trust == nil || c.Signer == nil || c.Box == nil || c.Dial == nil || c.Identity.Leaf == nil {
		return errors.New("incomplete configuration")
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return nil
}

// certificate is the gateway's in the login transcript.
func (c *Config) certificate() [32]byte { return sha256.Sum256(c.Identity.Leaf.Raw) }
