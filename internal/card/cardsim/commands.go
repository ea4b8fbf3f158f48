// SPDX-License-Identifier: Apache-2.0

package cardsim

import (
	"bytes"

	"sdbox/internal/card"
)

// status is SW1 SW2 (SP 800-73-5 Part 2, Table 2; ISO/IEC 7816-4, Table 5).
type status uint16

const (
	swOK           status = 0x9000
	swMore         status = 0x6100 // plus the number of bytes that wait, 00 for 256 and more
	swMismatch     status = 0x63C0 // plus the tries left
	swMemory       status = 0x6581
	swLength       status = 0x6700
	swNoMessaging  status = 0x6882
	swNotVerified  status = 0x6982
	swBlocked      status = 0x6983
	swNotNow       status = 0x6985
	swBadData      status = 0x6A80
	swNotFound     status = 0x6A82
	swNoSpace      status = 0x6A84
	swBadParameter status = 0x6A86
	swNoReference  status = 0x6A88
	swWrongLe      status = 0x6C00 // plus the right Le
	swUnknownIns   status = 0x6D00
	swUnknownClass status = 0x6E00
)

// maxCommand bounds a chained command.
const maxCommand = maxObject + 64

// insGetResponse fetches what did not fit into the last answer (ISO/IEC 7816-4, 11.8.1).
const insGetResponse = 0xC0

// Transmit gives the card one command APDU and returns its response; it implements card.Transport. It fails only without
// power, with card.ErrRemoved: see CutPower.
func (s *Sim) Transmit(apdu []byte) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	data, sw, err := s.poweredLocked(apdu)
	if err != nil {
		return nil, err
	}
	return append(bytes.Clone(data), byte(sw>>8), byte(sw)), nil
}

// runLocked is the card's command loop: chaining and answers in parts around dispatchLocked.
func (s *Sim) runLocked(apdu []byte) ([]byte, status) {
	c, err := parseCommand(apdu)
	if err != nil {
		s.ram.chain, s.ram.pending = nil, nil
		return nil, swLength
	}
	if c.cla == 0 && c.ins == insGetResponse && s.ram.chain == nil {
		return s.moreLocked(c.expects)
	}
	s.ram.pending = nil // any other command drops it
	if sw := s.chainLocked(&c); sw != swOK || c.cla == 0x10 {
		return nil, sw
	}
	data, sw := s.dispatchLocked(c)
	if sw != swOK || len(data) == 0 {
		return nil, sw
	}
	return s.answerLocked(data, c.expects)
}

// chainLocked collects the parts of a chained command (class 10) and completes the last one (ISO/IEC 7816-4, 5.3.3).
func (s *Sim) chainLocked(c *command) status {
	first := s.ram.chain
	s.ram.chain = nil
	switch {
	case c.cla == 0x0C || c.cla == 0x1C:
		return swNoMessaging
	case c.cla != 0x00 && c.cla != 0x10:
		return swUnknownClass
	case first != nil && (first.ins != c.ins || first.p1 != c.p1 || first.p2 != c.p2):
		first = nil // another command: the chain is forgotten
	}
	if first != nil {
		if len(first.data)+len(c.data) > maxCommand {
			return swNoSpace
		}
		c.data = append(bytes.Clone(first.data), c.data...)
	}
	if c.cla == 0x10 {
		s.ram.chain = &command{cla: c.cla, ins: c.ins, p1: c.p1, p2: c.p2, data: bytes.Clone(c.data)}
		return s.tearLocked(*c)
	}
	return swOK
}

// answerLocked gives as much as the reader takes and holds the rest for GET RESPONSE.
func (s *Sim) answerLocked(data []byte, takes int) ([]byte, status) {
	if takes == 0 && s.profile.yubico && !s.t0 {
		takes = 256 // a YubiKey answers a command without Le as if it had Le = 00, and Yubico's programs count on it
	}
	if len(data) <= takes {
		return data, swOK
	}
	s.ram.pending = data[takes:]
	return data[:takes], swMore | status(min(len(s.ram.pending), 256)&0xFF)
}

func (s *Sim) moreLocked(takes int) ([]byte, status) {
	waiting := s.ram.pending
	switch {
	case len(waiting) == 0:
		return nil, swNotNow
	case takes == 0:
		return nil, swLength
	case takes > len(waiting) && takes < 256:
		return nil, swWrongLe | status(len(waiting))
	}
	s.ram.pending = nil
	return s.answerLocked(waiting, takes)
}

func (s *Sim) dispatchLocked(c command) ([]byte, status) {
	if c.ins == 0xA4 {
		return s.selectLocked(c)
	}
	if !s.ram.selected {
		return nil, swUnknownIns // no application is selected by default
	}
	switch c.ins {
	case 0x20:
		return nil, s.verifyLocked(c)
	case 0x24:
		return nil, s.replaceLocked(c, c.p2)
	case 0x2C:
		return nil, s.replaceLocked(c, refPUK)
	case 0x47:
		return s.generateLocked(c)
	case 0x87:
		if c.p2 == slot9B {
			return s.manageLocked(c)
		}
		return s.signLocked(c)
	case 0xCB:
		return s.getDataLocked(c)
	case 0xDB:
		return nil, s.putDataLocked(c)
	}
	if s.profile.yubico {
		return s.yubicoLocked(c)
	}
	return nil, swUnknownIns
}

// selectLocked: SP 800-73-5 Part 2, 3.1.1. Selecting the selected application again, or failing to select another, changes
// nothing: verified references stay. A YubiKey closes all on every SELECT, and its programs count on that to read the tries. So does
// every card in a virtual machine's reader, which never tells of a reset.
func (s *Sim) selectLocked(c command) ([]byte, status) {
	if c.p1 != 0x04 || c.p2 != 0x00 {
		return nil, swBadParameter
	}
	if s.profile.noPIV || len(c.data) < 5 || !bytes.HasPrefix([]byte(applicationID), c.data) {
		return nil, swNotFound
	}
	if !s.ram.selected || s.profile.yubico || s.t0 {
		s.ram = ram{selected: true, verified: map[byte]bool{}}
	}
	return applicationTemplate(s.profile.label), swOK
}

// getDataLocked: SP 800-73-5 Part 2, 3.1.2. Access rules: Part 1, Table 3.
func (s *Sim) getDataLocked(c command) ([]byte, status) {
	if c.p1 != 0x3F || c.p2 != 0xFF {
		return nil, swBadParameter
	}
	tag, ok := parseTag(c.data)
	if !ok {
		return nil, swBadData
	}
	switch tag {
	case tagDiscovery:
		return discovery(len(s.fingersLocked()) > 0), swOK
	case tagBIT:
		if s.profile.maxMinutiae > 0 {
			return s.profile.biometricGroup(s.fingersLocked()), swOK
		}
	case tagPrinted:
		if !s.openLocked() {
			return nil, swNotVerified
		}
	case tagFingers, tagFace, tagIris: // a finger compared on the card does not open images of the body
		if !s.ram.verified[card.RefPIN] {
			return nil, swNotVerified
		}
	}
	content, ok := s.nvm.Objects[tag]
	if !ok {
		return nil, swNotFound
	}
	return tlv("\x53", content), swOK
}
