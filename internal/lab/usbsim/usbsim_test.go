// SPDX-License-Identifier: Apache-2.0

package usbsim

import (
	"bytes"
	"encoding/binary"
	"io"
	"testing"

	"github.com/stretchr/testify/require"
)

// every is all that is recorded.
func every() map[string][]byte {
	return map[string][]byte{
		"keyboard": Keyboard(), "tablet": Tablet(), "reader": Reader(), "unknown reader": UnknownReader(), "stick": Stick(), "network": NetworkAdapter(),
		"hub": Hub(), "both": Both(Keyboard(), Stick()),
	}
}

func TestRecordedDevicesAreWhole(t *testing.T) {
	for name, b := range every() {
		d, err := Parse(b)
		require.NoError(t, err, name)
		require.Len(t, d.configurations, int(b[17]), name)
		for _, c := range d.configurations {
			for rest := c; len(rest) > 0; rest = rest[rest[0]:] {
				require.True(t, rest[0] > 1 && int(rest[0]) <= len(rest), name)
			}
		}
	}
}

// host is one who asks what it has written down, and takes what comes.
type host struct {
	io.Reader
	io.Writer
}

// control is a packet that asks for a descriptor.
func control(kind, number byte, length uint16) []byte {
	b := binary.LittleEndian.AppendUint32(nil, packetControl)
	b = binary.LittleEndian.AppendUint32(b, controlSize)
	b = binary.LittleEndian.AppendUint64(b, 7)
	b = append(b, 0x80, getDescriptor, fromDevice, 0, number, kind, 0, 0)
	return binary.LittleEndian.AppendUint16(b, length)
}

func FuzzServe(f *testing.F) {
	hello := append([]byte{packetHello, 0, 0, 0, helloSize, 0, 0, 0, 0, 0, 0, 0}, make([]byte, helloSize)...)
	f.Add(hello)
	hello = append([]byte(nil), hello...)
	hello[12+64] = capabilities
	f.Add(bytes.Join([][]byte{hello, control(1, 0, 18), control(2, 0, 9), control(2, 9, 9), control(3, 0, 255)}, nil))
	f.Add(append(append([]byte(nil), hello...), packetSetConfig, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1))
	f.Add(append(append([]byte(nil), hello...), packetControl, 0, 0, 0, 255, 255, 255, 255, 0, 0, 0, 0, 0, 0, 0, 0))
	f.Add(append(append([]byte(nil), hello...), packetControl, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0))
	f.Add([]byte{packetControl, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, asked []byte) {
		d, err := Parse(Keyboard())
		require.NoError(t, err)
		var told bytes.Buffer
		require.Error(t, d.serve(host{bytes.NewReader(asked), &told}), "a host ends")
		require.LessOrEqual(t, told.Len(), 512+len(asked)*256)
	})
}
