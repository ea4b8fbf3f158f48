// SPDX-License-Identifier: Apache-2.0

package boot

import (
	"os"
	"strings"
	"testing"

	"sdbox/internal/lab/usbsim"
	"sdbox/internal/refusal"

	"github.com/stretchr/testify/require"
)

func changed(b []byte, at int, to byte) []byte {
	b = append([]byte(nil), b...)
	b[at] = to
	return b
}

// usbDevices are what may be plugged in, and what becomes of it: "" is let in.
func usbDevices() map[string]struct {
	raw  []byte
	want refusal.Code
	why  string
} {
	keyboard, reader := usbsim.Keyboard(), usbsim.Reader()
	return map[string]struct {
		raw  []byte
		want refusal.Code
		why  string
	}{
		"keyboard":                         {keyboard, "", ""},
		"mouse or tablet":                  {usbsim.Tablet(), "", ""},
		"keyboard with a card reader":      {usbsim.Both(usbsim.Reader(), usbsim.Keyboard()), "", ""},
		"reader":                           {reader, "", ""},
		"reader libccid does not know":     {usbsim.UnknownReader(), refusal.ReaderUnknown, "does not know"},
		"stick":                            {usbsim.Stick(), refusal.DeviceRefused, "a store"},
		"network adapter":                  {usbsim.NetworkAdapter(), refusal.DeviceRefused, "network adapter"},
		"hub":                              {usbsim.Hub(), refusal.DeviceRefused, "a hub"},
		"keyboard that is a stick too":     {usbsim.Both(keyboard, usbsim.Stick()), refusal.DeviceRefused, "a store"},
		"keyboard with a stick for later":  {changed(append(usbsim.Keyboard(), usbsim.Stick()[18:]...), 17, 2), refusal.DeviceRefused, "a store"},
		"phone":                            {changed(usbsim.Stick(), 18+9+5, 0xff), refusal.DeviceRefused, "its maker's own kind"},
		"keyboard that calls itself a hub": {changed(keyboard, 4, classHub), refusal.DeviceRefused, "a hub"},
		"class nobody knows":               {changed(keyboard, 18+9+5, 0x77), refusal.DeviceRefused, "class 0x77"},
		"nothing":                          {nil, refusal.DeviceRefused, "no device descriptor"},
		"no configuration":                 {keyboard[:18], refusal.DeviceRefused, "another number"},
		"says it has none":                 {changed(keyboard[:18], 17, 0), refusal.DeviceRefused, "or none"},
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
	d, err := parseDescriptors(usbsim.Hub())
	require.NoError(t, err)
	require.NoError(t, d.judge(USB{Hubs: true}))
	stick, err := parseDescriptors(usbsim.Both(usbsim.Hub(), usbsim.Stick()))
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
	for _, d := range usbDevices() {
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
