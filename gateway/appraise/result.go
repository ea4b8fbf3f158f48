// SPDX-License-Identifier: Apache-2.0

package appraise

import (
	"crypto/sha256"
	"fmt"
	"time"

	"sdbox/internal/attest"
	"sdbox/internal/wire"
)

// Type is the statement type under which a Result is sealed.
const Type = "sdbox-attestation-result"

// Profile names what a Result holds: an attestation result after draft-ietf-rats-ear with one appraised part, the box, and claims of
// our own (negative keys of the private range, RFC 8392, 9.1.1).
const Profile = "tag:sdbox,2026:attestation-result-1"

// boxSubmodule is the one part that is appraised.
const boxSubmodule = "box"

// Tiers and claim values of draft-ietf-rats-ar4si, 2.3. A box is affirmed or has no result: there is no warning to act on.
const (
	StatusAffirming = 2

	genuineHardware       = 2 // hardware: passes authenticity checks, here a registered endorsement key
	recognizedInstance    = 2 // instance-identity
	approvedConfiguration = 2 // configuration: command line and initrd, PCR 9; Secure Boot, PCR 7
	approvedBoot          = 3 // executables: only approved ones were loaded during boot
)

// Result is the attestation result: the claims that are sealed.
type Result struct {
	Profile  string               `cbor:"265,keyasint"`
	IssuedAt int64                `cbor:"6,keyasint"` // seconds since 1970, UTC (RFC 8392, 3.1.6)
	Verifier VerifierID           `cbor:"1004,keyasint"`
	Parts    map[string]Appraisal `cbor:"266,keyasint"`
}

// VerifierID names who appraised.
type VerifierID struct {
	Developer string `cbor:"0,keyasint"`
	Build     string `cbor:"1,keyasint"`
}

// Appraisal is what was found of one part.
type Appraisal struct {
	Status int         `cbor:"1000,keyasint"`
	Trust  TrustVector `cbor:"1001,keyasint"`
	Policy string      `cbor:"1003,keyasint"` // name and version of the reference values it equals
	Box    Box         `cbor:"-70000,keyasint"`
}

// TrustVector is the normalized view (draft-ietf-rats-ar4si, 2.3.4).
type TrustVector struct {
	Instance      int `cbor:"0,keyasint"`
	Configuration int `cbor:"1,keyasint"`
	Executables   int `cbor:"2,keyasint"`
	Hardware      int `cbor:"4,keyasint"`
}

// Box is what ties the result to one box, one connection and one tunnel.
type Box struct {
	AKName       []byte   `cbor:"1,keyasint"`
	DeviceKey    []byte   `cbor:"2,keyasint"` // SHA-256 of its SubjectPublicKeyInfo
	GatewayKey   []byte   `cbor:"3,keyasint"` // likewise
	TunnelKey    wire.Key `cbor:"4,keyasint"`
	Binding      []byte   `cbor:"5,keyasint"` // the quote's qualifying data
	Evidence     []byte   `cbor:"6,keyasint"` // SHA-256 of its deterministic CBOR, which the gateway keeps
	Reference    []byte   `cbor:"7,keyasint"` // SHA-256 of the signed note
	ResetCount   uint32   `cbor:"8,keyasint"`
	RestartCount uint32   `cbor:"9,keyasint"`
	Previous     []byte   `cbor:"10,keyasint,omitempty"` // SHA-256 of the result it follows
}

// Box returns what the result says of the box.
func (r *Result) Box() Box { return r.Parts[boxSubmodule].Box }

// Equals returns name and version of the reference values that the box equals.
func (r *Result) Equals() string { return r.Parts[boxSubmodule].Policy }

// Affirmed says whether a result, opened from its seal, affirms a box of this profile.
func (r *Result) Affirmed() bool {
	part, found := r.Parts[boxSubmodule]
	return r.Profile == Profile && found && len(r.Parts) == 1 && part.Status == StatusAffirming
}

func (v *Verifier) result(ev *wire.Evidence, facts *attest.Facts, want attest.Expectations, ref known, previous *Previous, at time.Time) (*Result, error) {
	evidence, err := wire.Digest(ev)
	if err != nil {
		return nil, fmt.Errorf("hash evidence: %w", err)
	}
	device, gateway := sha256.Sum256(want.DeviceSPKI), sha256.Sum256(want.GatewaySPKI)
	box := Box{
		AKName:       facts.AKName,
		DeviceKey:    device[:],
		GatewayKey:   gateway[:],
		TunnelKey:    facts.TunnelKey,
		Binding:      facts.Binding[:],
		Evidence:     evidence[:],
		Reference:    ref.hash[:],
		ResetCount:   facts.ResetCount,
		RestartCount: facts.RestartCount,
	}
	if previous != nil {
		box.Previous = facts.Previous
	}
	return &Result{
		Profile:  Profile,
		IssuedAt: at.Unix(),
		Verifier: VerifierID{Developer: v.developer, Build: v.build},
		Parts: map[string]Appraisal{boxSubmodule: {
			Status: StatusAffirming,
			Trust: TrustVector{
				Instance:      recognizedInstance,
				Configuration: approvedConfiguration,
				Executables:   approvedBoot,
				Hardware:      genuineHardware,
			},
			Policy: ref.String(),
			Box:    box,
		}},
	}, nil
}
