// SPDX-License-Identifier: Apache-2.0

package cardsim

import (
	"bytes"
	"crypto/subtle"

	"sdbox/internal/card"
)

// refPUK is the key reference of the PIN unblocking key (SP 800-73-5 Part 1, Table 4).
const refPUK = 0x81

// verifyLocked: SP 800-73-5 Part 2, 3.2.1. The PUK is no reference of VERIFY.
func (s *Sim) verifyLocked(c command) status {
	ref := s.nvm.References[refName(c.p2)]
	switch {
	case c.p1 != 0x00 && c.p1 != 0xFF:
		return swBadParameter
	case ref == nil || c.p2 == refPUK:
		return swNoReference
	case c.p1 == 0xFF && len(c.data) > 0:
		return swLength
	case c.p1 == 0xFF: // log out
		delete(s.ram.verified, c.p2)
		s.ram.fresh = false
		return swOK
	case len(c.data) == 0 && s.ram.verified[c.p2]:
		return swOK
	case ref.Left == 0:
		return swBlocked
	case len(c.data) == 0:
		return mismatch(ref)
	}
	given := c.data
	if c.p2 == card.RefPIN {
		block, ok := s.profile.pinBlock(c.data)
		if !ok || len(c.data) != 8 {
			return swBadData
		}
		given = block
	} else if !s.profile.takes(c.data) {
		return swBadData
	}
	if sw := s.compareLocked(c.p2, given); sw != swOK {
		return sw
	}
	s.ram.verified[c.p2], s.ram.fresh = true, true
	return swOK
}

// mismatch is the status for tries left: 63CX shows 15 at most.
func mismatch(r *reference) status { return swMismatch | status(min(r.Left, 15)) }

// compareLocked spends a try before it compares and gives all tries back after a match, each step kept before the next: a
// card pulled in between has spent the try. What the reference had opened is closed by a comparison that fails.
func (s *Sim) compareLocked(name byte, given []byte) status {
	delete(s.ram.verified, name)
	s.ram.fresh = false
	if s.changeLocked(func(n *nvm) { n.References[refName(name)].Left-- }) != nil {
		return swMemory
	}
	ref := s.nvm.References[refName(name)]
	var same bool
	if name == card.RefPIN || name == refPUK {
		same = subtle.ConstantTimeCompare(ref.Value, given) == 1
	} else {
		same = match(ref.Value, given) >= threshold
	}
	if !same {
		return mismatch(ref)
	}
	if s.changeLocked(func(n *nvm) { n.References[refName(name)].Left = ref.Max }) != nil {
		return swMemory
	}
	return swOK
}

// replaceLocked serves CHANGE REFERENCE DATA (24: the old PIN or PUK, then the new one) and RESET RETRY COUNTER (2C: the PUK,
// then the new PIN): SP 800-73-5 Part 2, 3.2.2 and 3.2.3. by is what has to match.
func (s *Sim) replaceLocked(c command, by byte) status {
	secret, target := s.nvm.References[refName(by)], s.nvm.References[refName(c.p2)]
	switch {
	case c.p1 != 0x00:
		return swBadParameter
	case secret == nil || target == nil || c.p2 != card.RefPIN && c.p2 != refPUK:
		return swNoReference
	case secret.Left == 0:
		return swBlocked
	case len(c.data) != 16:
		return swBadData
	}
	given, ok := s.profile.pinBlock(c.data[:8])
	value, good := s.profile.pinBlock(c.data[8:])
	if !ok || !good {
		return swBadData // spends nothing
	}
	if sw := s.compareLocked(by, given); sw != swOK {
		return sw
	}
	err := s.changeLocked(func(n *nvm) {
		n.References[refName(c.p2)] = &reference{Value: bytes.Clone(value), Left: target.Max, Max: target.Max}
	})
	if err != nil {
		return swMemory
	}
	return swOK
}

// openLocked says whether the rule "PIN or on-card comparison" is met.
func (s *Sim) openLocked() bool {
	return s.ram.verified[card.RefPIN] || s.ram.verified[card.RefFinger] || s.ram.verified[card.RefFinger2]
}

// fingersLocked lists the enrolled fingers.
func (s *Sim) fingersLocked() []byte {
	var refs []byte
	for _, ref := range []byte{card.RefFinger, card.RefFinger2} {
		if s.nvm.References[refName(ref)] != nil {
			refs = append(refs, ref)
		}
	}
	return refs
}
