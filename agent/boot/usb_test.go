// SPDX-License-Identifier: Apache-2.0

package boot

import (
	"encoding/hex"
	"os"
	"strings"
	"testing"

	"sdbox/internal/refusal"

	"github.com/stretchr/testify/require"
)

// Descriptors as sysfs shows them: a device's own 18 bytes, then its configurations. Those of keyboard, tablet, reader, stick, adapter
// and hub are those of QEMU's.
const (
	keyboardDevice = "12010002000000402706010000000104 0b01"
	keyboardConfig = "0902220001010 8a032" + "090400000103010100" + "09211101000122 3f00" + "0705810308000 7"
	tabletDevice   = "120100020000004027060100000001030a01"
	tabletConfig   = "09022200010107a032" + "090400000103000000" + "092101000001224a00" + "07058103080004"
	readerDevice   = "12010001000000 40e60833440000010203 01"
	readerInterf   = "0904000003 0b000004" + "362110010007 01000000 a00f0000a00f000000 8025000080250000 00 fe000000 00000000 00000000 fe040100 12000100 ffff 0000 00 01"
	readerEnds     = "07058103400 0ff" + "0705820240 0000" + "07050302400 000"
	readerConfig   = "09025d000101 00e032" + readerInterf + readerEnds
	stickDevice    = "12010002000000 40f4460100000001020301"
	stickConfig    = "0902200001010 5c000" + "090400000208065000" + "07058102000200" + "07050202000200"
	netDevice      = "12010002 02000040 2505a2a400000102 0302" // RNDIS first, CDC Ethernet second
	netConfig1     = "0902430002020780 32" + "09040000010202ff05" + "0524001001" + "0524010001" + "04240200" + "0524060001" + "07058103100009" + "090401000 20a000000" + "0705820240 0000" + "0705020240 0000"
	netConfig2     = "0902500002010680 32" + "09040000010206 0005" + "0524001001" + "0524060001" + "0d240f0300000000ea0500 0000" + "07058103100009" + "090401000 00a000000" + "090401010 20a000000" + "0705820240 0000" + "0705020240 0000"
	hubDevice      = "1201100109000008 09041a00010101020301"
	hubConfig      = "09021900010100c000" + "090400000109000000" + "0705810302 00ff"
)

func bytesOf(t testing.TB, parts ...string) []byte {
	b, err := hex.DecodeString(strings.ReplaceAll(strings.Join(parts, ""), " ", ""))
	require.NoError(t, err)
	return b
}

// both is a device with two interfaces in one configuration.
func both(t testing.TB, device, one, two string) []byte {
	b := bytesOf(t, device)
	c := bytesOf(t, one)[9:]
	d := bytesOf(t, two)[9:]
	d[2] = 1 // its number
	total := 9 + len(c) + len(d)
	b = append(b, 9, 2, byte(total), byte(total>>8), 2, 1, 0, 0x80, 50)
	return append(append(b, c...), d...)
}

func changed(b []byte, at int, to byte) []byte {
	b = append([]byte(nil), b...)
	b[at] = to
	return b
}

// usbDevices are what may be plugged in, and what becomes of it: "" is let in.
func usbDevices(t testing.TB) map[string]struct {
	raw  []byte
	want refusal.Code
	why  string
} {
	keyboard, reader := bytesOf(t, keyboardDevice, keyboardConfig), bytesOf(t, readerDevice, readerConfig)
	return map[string]struct {
		raw  []byte
		want refusal.Code
		why  string
	}{
		"keyboard":                         {keyboard, "", ""},
		"mouse or tablet":                  {bytesOf(t, tabletDevice, tabletConfig), "", ""},
		"keyboard with a card reader":      {both(t, readerDevice, keyboardConfig, readerConfig), "", ""},
		"reader":                           {reader, "", ""},
		"reader libccid does not know":     {changed(reader, 10, 0x99), refusal.ReaderUnknown, "does not know"},
		"stick":                            {bytesOf(t, stickDevice, stickConfig), refusal.DeviceRefused, "a store"},
		"network adapter":                  {bytesOf(t, netDevice, netConfig1, netConfig2), refusal.DeviceRefused, "network adapter"},
		"hub":                              {bytesOf(t, hubDevice, hubConfig), refusal.DeviceRefused, "a hub"},
		"keyboard that is a stick too":     {both(t, keyboardDevice, keyboardConfig, stickConfig), refusal.DeviceRefused, "a store"},
		"keyboard with a stick for later":  {changed(bytesOf(t, keyboardDevice, keyboardConfig, stickConfig), 17, 2), refusal.DeviceRefused, "a store"},
		"phone":                            {changed(bytesOf(t, stickDevice, stickConfig), 18+9+5, 0xff), refusal.DeviceRefused, "its maker's own kind"},
		"keyboard that calls itself a hub": {changed(keyboard, 4, classHub), refusal.DeviceRefused, "a hub"},
		"class nobody knows":               {changed(keyboard, 18+9+5, 0x77), refusal.DeviceRefused, "class 0x77"},
		"nothing":                          {nil, refusal.DeviceRefused, "no device descriptor"},
		"no configuration":                 {bytesOf(t, keyboardDevice), refusal.DeviceRefused, "another number"},
		"says it has none":                 {changed(bytesOf(t, keyboardDevice), 17, 0), refusal.DeviceRefused, "or none"},
		"one configuration of two":         {changed(keyboard, 17, 2), refusal.DeviceRefused, "another number"},
		"cut short":                        {keyboard[:len(keyboard)-1], refusal.DeviceRefused, "a configuration of"},
		"interface without length":         {changed(keyboard, 18+9, 0), refusal.DeviceRefused, "a descriptor of 0"},
		"interface of one byte too many":   {changed(keyboard, 18+9, 200), refusal.DeviceRefused, "a descriptor of 200"},
		"short interface":                  {changed(keyboard, 18+9, 8), refusal.DeviceRefused, "interface descriptor of 8"},
		"interfaces announced and absent":  {changed(keyboard, 18+4, 2), refusal.DeviceRefused, "announced"},
		"configuration of nothing":         {changed(keyboard, 18+2, 0), refusal.DeviceRefused, "a configuration of"},
		"descriptors without end":          {make([]byte, maxDescriptors+1), refusal.DeviceRefused, "longer"},
	}
}

func TestHubsGoWhereTheProfileTakesThem(t *testing.T) {
	d, err := parseDescriptors(bytesOf(t, hubDevice, hubConfig))
	require.NoError(t, err)
	require.NoError(t, d.judge(USB{Hubs: true}))
	stick, err := parseDescriptors(both(t, hubDevice, hubConfig, stickConfig))
	require.NoError(t, err)
	require.ErrorContains(t, stick.judge(USB{Hubs: true}), "a store")
}

func TestListOfReadersIsLibccids(t *testing.T) {
	f, err := os.Open(readersFile)
	require.NoError(t, err)
	defer f.Close()
	known, err := parseReaders(f)
	require.NoError(t, err)
	require.True(t, known[usbID{0x08e6, 0x4433}], "the reader that QEMU plays")
	require.True(t, known[usbID{0x08e6, 0x3437}], "a Gemalto PC Twin")
	require.False(t, known[usbID{0x08e6, 0x4499}])
	require.Greater(t, len(known), 300)
	for name, text := range map[string]string{
		"two lists of two lengths": `<plist><dict><key>ifdVendorID</key><array><string>0x1</string></array></dict></plist>`,
		"no number":                `<plist><dict><key>ifdVendorID</key><array><string>reader</string></array></dict></plist>`,
		"cut short":                `<plist><dict><key>ifdVendorID</key><array><string>0x1`,
		"empty":                    ``,
	} {
		_, err := parseReaders(strings.NewReader(text))
		require.Error(t, err, name)
	}
}

func FuzzDescriptors(f *testing.F) {
	for _, d := range usbDevices(f) {
		if len(d.raw) < 1<<10 {
			f.Add(d.raw)
		}
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		d, err := parseDescriptors(raw)
		if err != nil {
			return
		}
		require.NotEmpty(t, d.interfaces)
		if d.judge(USB{}) == nil { // nothing but keyboards, mice and readers, whatever else the bytes hold
			for _, c := range d.interfaces {
				require.Contains(t, []byte{classHID, classCCID}, c)
			}
		}
	})
}
