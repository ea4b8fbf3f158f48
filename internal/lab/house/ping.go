// SPDX-License-Identifier: Apache-2.0

package house

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
)

// Ping sends one ICMP echo request from inside the place to an IPv4 address and returns the round trip time. The answer is
// the kernel's at the other end, so nothing of sdbox is in the figure (RFC 792).
func (p *Place) Ping(ctx context.Context, address string) (time.Duration, error) {
	conn, err := p.Dial(ctx, "ip4:icmp", address)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	id := int(time.Now().UnixNano() & 0xffff)
	request, err := (&icmp.Message{Type: ipv4.ICMPTypeEcho, Body: &icmp.Echo{ID: id, Seq: 1, Data: make([]byte, 32)}}).Marshal(nil)
	if err != nil {
		return 0, err
	}
	sent := time.Now()
	if _, err := conn.Write(request); err != nil {
		return 0, fmt.Errorf("ping %s from %s: %w", address, p.Name, err)
	}
	buf := make([]byte, 1500)
	for {
		n, err := conn.Read(buf)
		if err != nil {
			return 0, fmt.Errorf("ping %s from %s: %w", address, p.Name, errors.Join(err, ctx.Err()))
		}
		took := time.Since(sent)
		answer, err := icmp.ParseMessage(1, payload(conn, buf[:n]))
		if err != nil || answer.Type != ipv4.ICMPTypeEchoReply {
			continue
		}
		if echo, ok := answer.Body.(*icmp.Echo); ok && echo.ID == id {
			return took, nil
		}
	}
}

// payload strips the IPv4 header where the socket hands it over.
func payload(conn net.Conn, packet []byte) []byte {
	header, err := ipv4.ParseHeader(packet)
	if _, isIP := conn.(*net.IPConn); isIP && err == nil && header.Version == 4 && header.TotalLen == len(packet) {
		return packet[header.Len:]
	}
	return packet
}
