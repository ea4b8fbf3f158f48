// SPDX-License-Identifier: Apache-2.0

// Package appraise is the gateway's verifier (RFC 9334, 4.1): it takes a box's evidence and the signed reference values, and gives
// the claims of an attestation result, or a refusal that says why and, if it is a register, which one.
package appraise

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"strings"
	"sync"
	"time"

	"sdbox/firmware/reference"
	"sdbox/internal/attest"
	"sdbox/internal/wire"
)

// The reasons of an appraisal, beside those of attest.Check. attest.ReasonOf finds either.
const (
	ChangedRegisters attest.Reason = "changed-registers" // a register holds something else than in any reference: *Changed says which
	NoReference      attest.Reason = "no-reference"      // no reference values were given yet
)

// Changed says which registers differ from the reference values that come nearest.
type Changed struct {
	Reference   string // name and version
	Differences []reference.Difference
}

// Error names the registers, and the events of those that are judged by them.
func (c *Changed) Error() string {
	names := make([]string, len(c.Differences))
	for i, d := range c.Differences {
		names[i] = d.String()
	}
	return fmt.Sprintf("%s: %s (%s)", ChangedRegisters, strings.Join(names, "; "), c.Reference)
}

// Unwrap makes attest.ReasonOf and errors.Is see the reason.
func (c *Changed) Unwrap() error { return ChangedRegisters }

// Verifier appraises evidence. It is safe for use by several goroutines.
type Verifier struct {
	trust     *reference.Trust
	developer string
	build     string

	mu     sync.RWMutex
	values []known // guarded by mu; replaced whole
}

type known struct {
	reference.Values
	hash [32]byte // of the signed note
}

// New makes a verifier without references: it refuses every box until Use. developer and build name it in its results.
func New(trust *reference.Trust, developer, build string) *Verifier {
	return &Verifier{trust: trust, developer: developer, build: build}
}

// Use replaces the reference values by those of the signed notes; a box is good if it equals one of them. If one of the notes does
// not open, nothing changes.
func (v *Verifier) Use(notes ...[]byte) error {
	values := make([]known, 0, len(notes))
	for i, signed := range notes {
		ref, err := v.Open(signed)
		if err != nil {
			return fmt.Errorf("reference note %d: %w", i+1, err)
		}
		values = append(values, known{Values: ref, hash: sha256.Sum256(signed)})
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.values = values
	return nil
}

// Open reads a signed note that a box can be held to: enough release keys signed it, it speaks of exactly the registers that are
// quoted, and it wants zero in registers 12 and 13, which only files slipped in beside the image fill.
func (v *Verifier) Open(signed []byte) (reference.Values, error) {
	ref, err := v.trust.Open(signed)
	if err != nil {
		return reference.Values{}, err
	}
	for _, register := range attest.Registers() {
		want, found := ref.Lookup(register)
		if !found {
			return reference.Values{}, fmt.Errorf("%s: register %d is missing", ref, register)
		}
		if (register == 12 || register == 13) && want.Digest != [32]byte{} {
			return reference.Values{}, fmt.Errorf("%s: register %d must be zero", ref, register)
		}
	}
	if len(ref.PCRs) != len(attest.Registers()) {
		return reference.Values{}, fmt.Errorf("%s: it speaks of registers that are not quoted", ref)
	}
	return ref, nil
}

// Previous is the result that a re-attestation follows, as the gateway gave it.
type Previous struct {
	Statement []byte // the sealed result
	Result    *Result
}

// Appraise checks evidence and compares its registers with the reference values. previous is nil at boot; else the evidence must
// name it, with the same tunnel key and no restart in between. at is when: it stands in the result. A refusal wraps an
// attest.Reason; the result is to be sealed under the type Type. The evidence may come from anyone.
func (v *Verifier) Appraise(ev *wire.Evidence, want attest.Expectations, previous *Previous, at time.Time) (*Result, error) {
	result, err := v.appraise(ev, want, previous, at)
	if err != nil {
		return nil, fmt.Errorf("appraise box: %w", err)
	}
	return result, nil
}

func (v *Verifier) appraise(ev *wire.Evidence, want attest.Expectations, previous *Previous, at time.Time) (*Result, error) {
	if previous != nil {
		want.TunnelKey = previous.Result.Box().TunnelKey
	}
	facts, err := attest.Check(ev, want)
	if err != nil {
		return nil, err
	}
	ref, err := v.match(facts)
	if err != nil {
		return nil, err
	}
	if previous != nil {
		if err := follows(facts, previous); err != nil {
			return nil, err
		}
	}
	return v.result(ev, facts, want, ref, previous, at)
}

// match finds the reference values that the box equals, or says what differs from the nearest.
func (v *Verifier) match(facts *attest.Facts) (known, error) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	var nearest *Changed
	for _, ref := range v.values {
		changed := &Changed{Reference: ref.String(), Differences: Differences(ref.Values, facts)}
		if len(changed.Differences) == 0 {
			return ref, nil
		}
		if nearest == nil || len(changed.Differences) < len(nearest.Differences) {
			nearest = changed
		}
	}
	if nearest == nil {
		return known{}, fmt.Errorf("%w: no signed note says what an intact box measures (sdboxctl reference add)", NoReference)
	}
	return known{}, nearest
}

// Differences returns the registers in which a box differs from reference values: none, if it is as they say.
func Differences(ref reference.Values, facts *attest.Facts) []reference.Difference {
	measured := make([]reference.PCR, len(facts.PCRs))
	for i, p := range facts.PCRs {
		measured[i] = reference.PCR{Index: p.Index, Digest: [32]byte(p.Digest)}
	}
	return ref.Compare(measured, facts.Log)
}

// follows wants the box's chain of results unbroken, and its TPM not restarted since: a restart loads registers anew.
func follows(facts *attest.Facts, previous *Previous) error {
	hash := sha256.Sum256(previous.Statement)
	if !bytes.Equal(facts.Previous, hash[:]) {
		return attest.OtherPrevious
	}
	box := previous.Result.Box()
	if facts.ResetCount != box.ResetCount || facts.RestartCount != box.RestartCount {
		return fmt.Errorf("%w: counts %d and %d, were %d and %d", attest.Restarted, facts.ResetCount, facts.RestartCount, box.ResetCount, box.RestartCount)
	}
	return nil
}
