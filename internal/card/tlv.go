// SPDX-License-Identifier: Apache-2.0

package card

import (
	"fmt"

	"sdbox/internal/ident"
)

// next cuts the first BER-TLV object off b. Tags are one or two bytes, lengths at most 0x82 form (ISO/IEC 7816-4, 5.2.2).
func next(b []byte) (tag uint16, value, rest []byte, err error) {
	if len(b) < 2 {
		return 0, nil, nil, fmt.Errorf("object cut off after %d bytes: %w", len(b), ErrBadCard)
	}
	tag, b = uint16(b[0]), b[1:]
	if tag&0x1F == 0x1F {
		if b[0]&0x80 != 0 {
			return 0, nil, nil, fmt.Errorf("object %X%02X has a tag of three bytes: %w", tag, b[0], ErrBadCard)
		}
		tag, b = tag<<8|uint16(b[0]), b[1:]
	}
	if len(b) == 0 {
		return 0, nil, nil, fmt.Errorf("object %X has no length: %w", tag, ErrBadCard)
	}
	n, width := int(b[0]), 0
	switch {
	case n == 0x81 || n == 0x82:
		width = n & 0x0F
		if len(b) < 1+width {
			return 0, nil, nil, fmt.Errorf("object %X has no length: %w", tag, ErrBadCard)
		}
		n = 0
		for _, d := range b[1 : 1+width] {
			n = n<<8 | int(d)
		}
	case n >= 0x80:
		return 0, nil, nil, fmt.Errorf("object %X has a length of form %02X: %w", tag, n, ErrBadCard)
	}
	b = b[1+width:]
	if n > len(b) {
		return 0, nil, nil, fmt.Errorf("object %X says %d bytes and has %d: %w", tag, n, len(b), ErrBadCard)
	}
	return tag, b[:n:n], b[n:], nil
}

// tagged appends one BER-TLV object of a one-byte tag and at most 65,535 bytes to b.
func tagged(b []byte, tag byte, value []byte) []byte {
	b = append(b, tag)
	switch n := len(value); {
	case n < 0x80:
		b = append(b, byte(n))
	case n <= 0xFF:
		b = append(b, 0x81, byte(n))
	default:
		b = append(b, 0x82, byte(n>>8), byte(n))
	}
	return append(b, value...)
}

// only returns the value of b's single object, which must have this tag.
func only(b []byte, tag uint16) ([]byte, error) {
	t, value, rest, err := next(b)
	if err != nil {
		return nil, err
	}
	if t != tag || len(rest) > 0 {
		return nil, fmt.Errorf("object %X and %d bytes more, want one object %X: %w", t, len(rest), tag, ErrBadCard)
	}
	return value, nil
}

// each calls f for every object of b in order.
func each(b []byte, f func(tag uint16, value []byte) error) error {
	for len(b) > 0 {
		tag, value, rest, err := next(b)
		if err != nil {
			return err
		}
		if err := f(tag, value); err != nil {
			return err
		}
		b = rest
	}
	return nil
}

// applicationLabel returns the label (tag 50) of the application property template in a SELECT answer (SP 800-73-5 Part 2,
// Table 3). Cards differ much here and nothing depends on it, so anything else in the answer is passed over.
func applicationLabel(answer []byte) string {
	template, err := only(answer, 0x61)
	if err != nil {
		return ""
	}
	label := ""
	_ = each(template, func(tag uint16, value []byte) error {
		if tag == 0x50 && len(value) <= 32 && printable(value) {
			label = string(value)
		}
		return nil
	})
	return label
}

func printable(b []byte) bool {
	for _, c := range b {
		if c < 0x20 || c > 0x7E {
			return false
		}
	}
	return true
}

// parseCertificateObject returns the DER of a certificate object: 70 certificate, 71 CertInfo, FE error detection code
// (SP 800-73-5 Part 1, Table 10).
func parseCertificateObject(content []byte) ([]byte, error) {
	var der []byte
	err := each(content, func(tag uint16, value []byte) error {
		switch {
		case tag == 0x70:
			der = value
		case tag == 0x71 && (len(value) != 1 || value[0] != 0):
			return fmt.Errorf("certificate is compressed (CertInfo %X): %w", value, ErrBadCard)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if len(der) == 0 {
		return nil, ErrNoObject
	}
	return der, nil
}

// parseCHUID returns the GUID (tag 34) of a card holder unique identifier (SP 800-73-5 Part 1, Table 9).
func parseCHUID(content []byte) (ident.GUID, error) {
	var guid ident.GUID
	found := false
	err := each(content, func(tag uint16, value []byte) error {
		if tag != 0x34 {
			return nil
		}
		if len(value) != len(guid) || found {
			return fmt.Errorf("GUID of %d bytes: %w", len(value), ErrBadCard)
		}
		found = true
		copy(guid[:], value)
		return nil
	})
	if err == nil && !found {
		err = fmt.Errorf("no GUID: %w", ErrBadCard)
	}
	return guid, err
}
