// SPDX-License-Identifier: Apache-2.0

package boot

import (
	"encoding/binary"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// Classes of USB devices and interfaces (usb.org, defined class codes) that a box knows.
const (
	classPerInterface = 0x00
	classHID          = 0x03
	classHub          = 0x09
	classCCID         = 0x0b
	classMisc         = 0xef // a composite device: what it does stands in its interfaces
)

// Descriptor types (USB 2.0, table 9-5).
const (
	descriptorDevice        = 1
	descriptorConfiguration = 2
	descriptorInterface     = 4
)

// maxDescriptors is how much of a device's descriptors is read; the kernel keeps at most 8 configurations of 64 KiB.
const maxDescriptors = 64 << 10

// usbID is what a device calls itself.
type usbID struct{ vendor, product uint16 }

// String writes it as lsusb does: 08e6:4433.
func (id usbID) String() string { return fmt.Sprintf("%04x:%04x", id.vendor, id.product) }

// usbDevice is a device by its descriptors.
type usbDevice struct {
	id         usbID
	class      byte
	interfaces []byte // classes, of every configuration and every alternate setting
}

// parseDescriptors reads a device's descriptors as sysfs shows them: the device's, then for each configuration its own, its interfaces'
// and all else it holds (USB 2.0, 9.6). Every byte is the device's own word: what does not add up is an error.
func parseDescriptors(raw []byte) (usbDevice, error) {
	if len(raw) < 18 || raw[0] != 18 || raw[1] != descriptorDevice || len(raw) > maxDescriptors {
		return usbDevice{}, errors.New("usb: no device descriptor")
	}
	d := usbDevice{class: raw[4], id: usbID{binary.LittleEndian.Uint16(raw[8:]), binary.LittleEndian.Uint16(raw[10:])}}
	configurations := int(raw[17])
	for rest := raw[18:]; len(rest) > 0; configurations-- {
		if len(rest) < 9 || rest[0] < 9 || rest[1] != descriptorConfiguration {
			return usbDevice{}, errors.New("usb: no configuration descriptor")
		}
		total := int(binary.LittleEndian.Uint16(rest[2:]))
		if total < int(rest[0]) || total > len(rest) {
			return usbDevice{}, fmt.Errorf("usb: a configuration of %d bytes in %d", total, len(rest))
		}
		classes, err := interfaceClasses(rest[rest[0]:total], int(rest[4]))
		if err != nil {
			return usbDevice{}, err
		}
		d.interfaces = append(d.interfaces, classes...)
		rest = rest[total:]
	}
	if configurations != 0 || len(d.interfaces) == 0 {
		return usbDevice{}, errors.New("usb: another number of configurations than the device has, or none")
	}
	return d, nil
}

// interfaceClasses reads one configuration's interfaces, of which there must be as many as it says.
func interfaceClasses(rest []byte, want int) ([]byte, error) {
	var classes []byte
	numbers := map[byte]bool{}
	for len(rest) > 0 {
		length := int(rest[0])
		if length < 2 || length > len(rest) {
			return nil, fmt.Errorf("usb: a descriptor of %d bytes in %d", length, len(rest))
		}
		if rest[1] == descriptorInterface {
			if length < 9 {
				return nil, fmt.Errorf("usb: an interface descriptor of %d bytes", length)
			}
			numbers[rest[2]] = true
			classes = append(classes, rest[5])
		}
		rest = rest[length:]
	}
	if len(numbers) != want || want == 0 {
		return nil, fmt.Errorf("usb: %d interfaces, %d announced", len(numbers), want)
	}
	return classes, nil
}

// has says whether an interface is of a class.
func (d usbDevice) has(class byte) bool { return strings.IndexByte(string(d.interfaces), class) >= 0 }

// judge says whether a device may be used: everything it can become must be a keyboard, mouse or card reader, or a hub where the
// profile takes hubs. The error says what it is.
func (d usbDevice) judge(policy USB) error {
	switch d.class {
	case classPerInterface, classHID, classCCID, classMisc:
	case classHub:
		if !policy.Hubs {
			return errors.New("a hub, which this kind of box does not take")
		}
	default:
		return errors.New(className(d.class))
	}
	for _, c := range d.interfaces {
		switch {
		case c == classHID, c == classCCID:
		case c == classHub && d.class == classHub:
		default:
			return errors.New(className(c))
		}
	}
	return nil
}

// className says what a class is, for the log.
func className(class byte) string {
	names := map[byte]string{
		0x01: "a sound device", 0x02: "a modem or network adapter", 0x05: "a physical device", 0x06: "a camera", 0x07: "a printer", 0x08: "a store",
		classHub: "a hub", 0x0a: "a modem or network adapter", 0x0e: "a camera", 0x0f: "a health device", 0x10: "a sound and picture device",
		0x12: "a bridge", 0xdc: "a diagnostic device", 0xe0: "a radio", 0xfe: "a device whose program can be changed", 0xff: "a device of its maker's own kind",
	}
	if n, ok := names[class]; ok {
		return n
	}
	return fmt.Sprintf("a device of class %#02x", class)
}

// maxPlist is the longest list of readers taken, in bytes.
const maxPlist = 1 << 20

// parseReaders reads the readers that libccid drives from its Info.plist: two arrays of numbers side by side. The file is part of the
// measured image.
func parseReaders(r io.Reader) (map[usbID]bool, error) {
	lists := map[string][]uint16{}
	d := xml.NewDecoder(io.LimitReader(r, maxPlist))
	d.Strict = true
	var key string
	for {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("list of readers: %w", err)
		}
		start, ok := token.(xml.StartElement)
		if !ok || start.Name.Local != "key" && start.Name.Local != "string" {
			continue
		}
		var text string
		if err := d.DecodeElement(&text, &start); err != nil {
			return nil, fmt.Errorf("list of readers: %w", err)
		}
		if start.Name.Local == "key" {
			key = text
			continue
		}
		if key != "ifdVendorID" && key != "ifdProductID" {
			continue
		}
		n, err := strconv.ParseUint(text, 0, 16)
		if err != nil {
			return nil, fmt.Errorf("list of readers: %s %.20q", key, text)
		}
		lists[key] = append(lists[key], uint16(n))
	}
	vendors, products := lists["ifdVendorID"], lists["ifdProductID"]
	if len(vendors) == 0 || len(vendors) != len(products) {
		return nil, fmt.Errorf("list of readers: %d vendors, %d products", len(vendors), len(products))
	}
	known := map[usbID]bool{}
	for i, v := range vendors {
		known[usbID{v, products[i]}] = true
	}
	return known, nil
}
