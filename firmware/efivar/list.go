// SPDX-License-Identifier: Apache-2.0

package efivar

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"
)

// Kinds of signatures in a list (UEFI 2.10, 32.4.1), for comparing.
const (
	KindX509   = "a5c059a1-94e4-4aa7-87b5-ab155c2bf072" // a certificate, DER
	KindSHA256 = "c1c41626-504c-4092-aca9-41f936934328" // the Authenticode hash of a program
)

// Limits of what is parsed, ours: forbidden lists of machines in the field have some 25 KB.
const (
	MaxLists   = 256 << 10 // bytes of a variable
	listHeader = 28
)

// Signature is one entry of a list, EFI_SIGNATURE_DATA (UEFI 2.10, 32.4.1).
type Signature struct {
	Kind  string // KindX509, KindSHA256 or another GUID
	Owner GUID   // who enrolled it
	Data  []byte
}

// Bytes is the entry as it stands in its list, and as the firmware measures the one by which it let a program start.
func (s Signature) Bytes() []byte { return append(append([]byte(nil), s.Owner[:]...), s.Data...) }

// ParseLists reads the value of PK, KEK, db or dbx, lists of EFI_SIGNATURE_LIST (UEFI 2.10, 32.4.1), which may come from anyone's
// machine.
func ParseLists(value []byte) ([]Signature, error) {
	if len(value) > MaxLists {
		return nil, fmt.Errorf("signature lists: %d bytes, limit %d", len(value), MaxLists)
	}
	var all []Signature
	for rest := value; len(rest) > 0; {
		if len(rest) < listHeader {
			return nil, errors.New("signature lists: cut off")
		}
		kind := GUID(rest[:16]).String()
		size, header, each := binary.LittleEndian.Uint32(rest[16:]), binary.LittleEndian.Uint32(rest[20:]), binary.LittleEndian.Uint32(rest[24:])
		if int64(size) > int64(len(rest)) || size < listHeader || header > size-listHeader || each <= 16 || (size-listHeader-header)%each != 0 {
			return nil, fmt.Errorf("signature lists: %d bytes with a header of %d and entries of %d, where %d are left", size, header, each, len(rest))
		}
		for entry := rest[listHeader+header : size]; len(entry) > 0; entry = entry[each:] {
			all = append(all, Signature{kind, GUID(entry[:16]), entry[16:each:each]})
		}
		rest = rest[size:]
	}
	return all, nil
}

// Lists is the value of a variable that holds these signatures, one list for each.
func Lists(signatures ...Signature) ([]byte, error) {
	var b []byte
	for _, s := range signatures {
		kind, err := ParseGUID(s.Kind)
		if err != nil || len(s.Data) == 0 || len(s.Data) > MaxLists {
			return nil, fmt.Errorf("signature lists: entry of kind %.40q with %d bytes", s.Kind, len(s.Data))
		}
		each := uint32(16 + len(s.Data))
		b = append(b, kind[:]...)
		b = binary.LittleEndian.AppendUint32(b, listHeader+each)
		b = binary.LittleEndian.AppendUint32(b, 0)
		b = binary.LittleEndian.AppendUint32(b, each)
		b = append(b, s.Bytes()...)
	}
	return b, nil
}

// EFI_TIME and EFI_VARIABLE_AUTHENTICATION_2 (UEFI 2.10, 8.3 and 8.2.2).
const (
	certificateRevision = 0x0200
	certificateGUID     = 0x0ef1                                 // WIN_CERT_TYPE_EFI_GUID
	kindPKCS7           = "4aafd29d-68df-49ee-8aa9-347d375665a7" // EFI_CERT_TYPE_PKCS7_GUID
)

// A Change gives a variable of Secure Boot a new value, once it is signed: PK by its own key, KEK by that of PK, db and dbx by one of
// KEK.
type Change struct {
	Name  string    // PK, KEK, DB or DBX
	Value []byte    // as Lists makes it
	Time  time.Time // later than that of the value before, to the second
}

// Message is what is signed.
func (c Change) Message() ([]byte, error) {
	short, vendor, err := split(c.Name)
	if err != nil {
		return nil, err
	}
	b := append(short, vendor[:]...)
	b = binary.LittleEndian.AppendUint32(b, authenticated)
	return append(append(b, c.time()...), c.Value...), nil
}

// Signed is what is written into the variable, an .auth file. signature is a PKCS #7 SignedData over Message, detached, SHA-256 and RSA,
// without a ContentInfo around it.
func (c Change) Signed(signature []byte) ([]byte, error) {
	kind, err := ParseGUID(kindPKCS7)
	if err != nil {
		return nil, err
	}
	b := binary.LittleEndian.AppendUint32(c.time(), uint32(24+len(signature)))
	b = binary.LittleEndian.AppendUint16(b, certificateRevision)
	b = binary.LittleEndian.AppendUint16(b, certificateGUID)
	return append(append(append(b, kind[:]...), signature...), c.Value...), nil
}

// time has neither fraction nor time zone, as 8.2.2 demands.
func (c Change) time() []byte {
	t := c.Time.UTC()
	b := binary.LittleEndian.AppendUint16(nil, uint16(t.Year()))
	b = append(b, byte(t.Month()), byte(t.Day()), byte(t.Hour()), byte(t.Minute()), byte(t.Second()), 0)
	return append(b, make([]byte, 8)...)
}
