// SPDX-License-Identifier: Apache-2.0

package house

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
)

// pingAgain is how long an answer is awaited before the request is sent once more: the first of a new link can be lost.
const pingAgain = 500 * time.Millisecond

// Ping sends ICMP echo requests from inside the place to an IPv4 address until one is answered, and returns the round trip
// time of that one. The answer is the kernel's at the other end, so nothing of sdbox is in the figure (RFC 792).
func (p *Place) Ping(ctx context.Context, address string) (time.Duration, error) {
	conn, err := p.Dial(ctx, "ip4:icmp", address)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	id := int(time.Now().UnixNano() & 0xffff)
	for seq := 1; ; seq++ {
		took, err := echo(conn, id, seq, pingAgain)
		if err == nil {
			return took, nil
		}
		if ctx.Err() != nil || !errors.Is(err, os.ErrDeadlineExceeded) {
			return 0, fmt.Errorf("ping %s from %s: %w", address, p.Name, errors.Join(err, ctx.Err()))
		}
	}
}

// echo sends one request and waits for its answer.
func echo(conn net.Conn, id, seq int, wait time.Duration) (time.Duration, error) {
	request, err := (&icmp.Message{Type: ipv4.ICMPTypeEcho, Body: &icmp.Echo{ID: id, Seq: seq, Data: make([]byte, 32)}}).Marshal(nil)
	if err != nil {
		return 0, err
	}
	sent := time.Now()
	if err := conn.SetDeadline(sent.Add(wait)); err != nil {
		return 0, err
	}
	if _, err := conn.Write(request); err != nil {
		return 0, err
	}
	buf := make([]byte, 1500)
	for {
		n, err := conn.Read(buf)
		if err != nil {
			return 0, err
		}
		took := time.Since(sent)
		answer, err := icmp.ParseMessage(1, payload(conn, buf[:n]))
		if err != nil || answer.Type != ipv4.ICMPTypeEchoReply {
			continue
		}
		if e, ok := answer.Body.(*icmp.Echo); ok && e.ID == id && e.Seq == seq {
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
