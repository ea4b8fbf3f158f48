// SPDX-License-Identifier: Apache-2.0

// Package usbsim is a USB device in software for a machine of the lab: it answers with descriptors as they were recorded, over QEMU's
// usb-redir (usbredir protocol 0.7), and does nothing else. It shows what a machine makes of a device before it lets it work.
package usbsim

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
)

// Packets of the protocol (usbredirproto.h), as far as a device that is never let in needs them.
const (
	packetHello         = 0
	packetConnect       = 1
	packetInterfaceInfo = 4
	packetEndpointInfo  = 5
	packetSetConfig     = 6
	packetConfigStatus  = 8
	packetControl       = 100

	helloSize     = 64 + 4 // version, one word of capabilities
	headerSize    = 16     // type, length, id of 64 bits; a hello's is of 32
	controlSize   = 10
	maxEndpoints  = 32
	maxPacket     = 64 << 10
	noEndpoint    = 255
	fullSpeed     = 1
	statusSuccess = 0
	statusStall   = 4
)

// Capabilities that QEMU wants of a device behind xHCI: endpoints say their largest packet, ids have 64 bits, lengths of bulk transfers 32.
const capabilities = 1<<4 | 1<<5 | 1<<6

// Requests of a host (USB 2.0, 9.4).
const (
	getDescriptor = 6
	fromDevice    = 0x80
)

// Device is a device by its descriptors as sysfs shows them: the device's, then its configurations.
type Device struct {
	device         []byte
	configurations [][]byte
}

// Parse takes descriptors apart.
func Parse(descriptors []byte) (*Device, error) {
	if len(descriptors) < 18 || descriptors[0] != 18 {
		return nil, errors.New("usb device: no device descriptor")
	}
	d := &Device{device: descriptors[:18]}
	for rest := descriptors[18:]; len(rest) > 0; {
		if len(rest) < 9 {
			return nil, errors.New("usb device: a configuration is cut short")
		}
		total := int(binary.LittleEndian.Uint16(rest[2:]))
		if total < 9 || total > len(rest) {
			return nil, fmt.Errorf("usb device: a configuration of %d bytes in %d", total, len(rest))
		}
		d.configurations = append(d.configurations, rest[:total])
		rest = rest[total:]
	}
	return d, nil
}

// Plug puts the device into the port whose usb-redir listens at a Unix socket, until ctx ends or the machine goes.
func (d *Device) Plug(ctx context.Context, socket string) error {
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", socket)
	if err != nil {
		return fmt.Errorf("usb device: %w", err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	err = d.serve(conn)
	if ctx.Err() != nil || errors.Is(err, io.EOF) {
		return nil
	}
	return fmt.Errorf("usb device: %w", err)
}

func (d *Device) serve(conn io.ReadWriter) error {
	hello := make([]byte, helloSize)
	copy(hello, "usbsim")
	binary.LittleEndian.PutUint32(hello[64:], capabilities)
	interfaces := make([]byte, 4+4*maxEndpoints)             // none is told of: their descriptors say it
	endpoints := make([]byte, 3*maxEndpoints+2*maxEndpoints) // type, interval, interface, then the largest packet of each
	for i := range maxEndpoints {
		endpoints[i] = noEndpoint
	}
	endpoints[0], endpoints[maxEndpoints/2] = 0, 0 // both directions of the control endpoint
	connect := []byte{fullSpeed, d.device[4], d.device[5], d.device[6]}
	connect = append(connect, d.device[8:12]...)
	if err := exchangeHello(conn, hello); err != nil {
		return err
	}
	for _, p := range []struct {
		kind uint32
		data []byte
	}{{packetInterfaceInfo, interfaces}, {packetEndpointInfo, endpoints}, {packetConnect, connect}} {
		if err := write(conn, p.kind, 0, p.data); err != nil {
			return err
		}
	}
	header := make([]byte, headerSize)
	for {
		if _, err := io.ReadFull(conn, header); err != nil {
			return err
		}
		kind, length, id := binary.LittleEndian.Uint32(header), binary.LittleEndian.Uint32(header[4:]), binary.LittleEndian.Uint64(header[8:])
		if length > maxPacket {
			return fmt.Errorf("a packet of %d bytes", length)
		}
		data := make([]byte, length)
		if _, err := io.ReadFull(conn, data); err != nil {
			return err
		}
		var err error
		switch {
		case kind == packetControl && length >= controlSize:
			err = write(conn, packetControl, id, d.control(data))
		case kind == packetSetConfig && length == 1:
			err = write(conn, packetConfigStatus, id, []byte{statusSuccess, data[0]})
		}
		if err != nil {
			return err
		}
	}
}

// control answers one control transfer: endpoint, request, request type, status, value, index, length, data.
func (d *Device) control(asked []byte) []byte {
	reply := append([]byte(nil), asked[:controlSize]...)
	reply[3] = statusSuccess // QEMU leaves there what it finds
	value, length := binary.LittleEndian.Uint16(asked[4:]), binary.LittleEndian.Uint16(asked[8:])
	var data []byte
	if asked[1] == getDescriptor && asked[2] == fromDevice {
		switch number := int(value & 0xff); value >> 8 {
		case 1:
			data = d.device
		case 2:
			if number < len(d.configurations) {
				data = d.configurations[number]
			}
		}
	}
	if data == nil {
		reply[3] = statusStall
		binary.LittleEndian.PutUint16(reply[8:], 0)
		return reply
	}
	data = data[:min(len(data), int(length))]
	binary.LittleEndian.PutUint16(reply[8:], uint16(len(data)))
	return append(reply, data...)
}

// exchangeHello says what this end can, and reads the same of the other.
func exchangeHello(conn io.ReadWriter, hello []byte) error {
	b := make([]byte, 12, 12+helloSize)
	binary.LittleEndian.PutUint32(b[4:], uint32(len(hello)))
	if _, err := conn.Write(append(b, hello...)); err != nil {
		return err
	}
	if _, err := io.ReadFull(conn, b); err != nil {
		return err
	}
	length := binary.LittleEndian.Uint32(b[4:])
	if binary.LittleEndian.Uint32(b) != packetHello || length < helloSize || length > maxPacket {
		return fmt.Errorf("a first packet of type %d, %d bytes", binary.LittleEndian.Uint32(b), length)
	}
	theirs := make([]byte, length)
	if _, err := io.ReadFull(conn, theirs); err != nil {
		return err
	}
	if binary.LittleEndian.Uint32(theirs[64:])&capabilities != capabilities {
		return errors.New("the host has other capabilities than QEMU's")
	}
	return nil
}

func write(w io.Writer, kind uint32, id uint64, data []byte) error {
	b := binary.LittleEndian.AppendUint32(nil, kind)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(data)))
	b = binary.LittleEndian.AppendUint64(b, id)
	_, err := w.Write(append(b, data...))
	return err
}
