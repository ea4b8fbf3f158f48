// SPDX-License-Identifier: Apache-2.0

package tunnel

import (
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// sendAhead keeps the kernel from taking more than it can soon send: what waits there can no longer be forgotten. It does
// nothing to a connection that is not TCP below.
func sendAhead(c net.Conn) {
	if over, ok := c.(interface{ NetConn() net.Conn }); ok {
		c = over.NetConn()
	}
	socket, ok := c.(syscall.Conn)
	if !ok {
		return
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return
	}
	// An error leaves the system's own limit, which is only longer.
	_ = raw.Control(func(fd uintptr) {
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, streamSendAhead)
	})
}
