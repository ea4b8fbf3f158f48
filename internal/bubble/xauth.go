// SPDX-License-Identifier: Apache-2.0

package bubble

import (
	"crypto/rand"
	"encoding/binary"
)

// The one entry of an Xauthority file (libXau, Xau.h): a random MIT-MAGIC-COOKIE-1 for any display of any host, which
// is what a private file of one desktop needs: the display's number is not known before the server has chosen it.
const (
	familyWild = 65535
	cookieName = "MIT-MAGIC-COOKIE-1"
	cookieLen  = 16
)

// newXauthority returns the file's content: u16 family, then address, number, name and data, each with a u16 length.
func newXauthority() []byte {
	cookie := make([]byte, cookieLen)
	rand.Read(cookie)
	b := binary.BigEndian.AppendUint16(nil, familyWild)
	for _, field := range [][]byte{nil, nil, []byte(cookieName), cookie} {
		b = binary.BigEndian.AppendUint16(b, uint16(len(field)))
		b = append(b, field...)
	}
	return b
}
