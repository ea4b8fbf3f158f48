// SPDX-License-Identifier: Apache-2.0

package boot

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// talk is PID 1's end of one agent's socket.
type talk struct {
	conn   *net.UnixConn
	child  *child
	beat   time.Time
	beaten bool
	silent bool // nothing more comes from it
	dead   bool // its process has ended
}

// heard is a request of an agent; of one that is no longer the agent it is dropped. An err ends the conversation.
type heard struct {
	from   *talk
	packet packet[request]
	err    error
}

// startAgent starts the agent with its end of a socket, and tells it what an agent begins with.
func (m *machine) startAgent(ctx context.Context) error {
	own, theirs, err := socketPair()
	if err != nil {
		return err
	}
	defer theirs.Close()
	c, err := m.nursery.start(roleSpecs()[RoleAgent], theirs)
	if err != nil {
		return errors.Join(err, own.Close())
	}
	t := &talk{conn: own, child: c, beat: time.Now()}
	m.running[RoleAgent], m.agent = c, t
	m.step("started agent")
	m.beside.Go(func() error {
		m.listen(ctx, t) // ends with the socket
		return nil
	})
	start := Event{Start: &Start{Kept: m.kept}}
	if m.safe != nil {
		g, f := m.safe.hand()
		start.Start.Screen = g
		start.Files = []*os.File{f}
	}
	m.tell(start)
	for _, e := range m.told {
		m.tell(e)
	}
	return nil
}

// agentEnded starts the next agent when the last one's process has ended and all it said has been heard: what it gave to be kept last
// counts.
func (m *machine) agentEnded(ctx context.Context) error {
	m.agent.dead = true
	return m.nextAgent(ctx)
}

func (m *machine) nextAgent(ctx context.Context) error {
	if !m.agent.dead || !m.agent.silent {
		return nil
	}
	_ = m.agent.conn.Close() // nobody is at the other end
	m.agent = nil
	delete(m.running, RoleAgent)
	return m.start(ctx, RoleAgent)
}

// listen hands the loop what one agent asks.
func (m *machine) listen(ctx context.Context, t *talk) {
	for {
		h := heard{from: t}
		h.packet, h.err = receive[request](t.conn)
		select {
		case m.requests <- h:
		case <-ctx.Done():
			closeAll(h.packet.files)
			return
		}
		if h.err != nil {
			return
		}
	}
}

// socketPair makes two ends of a socket that keeps messages apart.
func socketPair() (own *net.UnixConn, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("socket of the agent: %w", err)
	}
	theirs = os.NewFile(uintptr(fds[1]), "agent")
	f := os.NewFile(uintptr(fds[0]), "boot")
	defer f.Close()
	if own, err = packetConn(f); err != nil {
		return nil, nil, errors.Join(fmt.Errorf("socket of the agent: %w", err), theirs.Close())
	}
	return own, theirs, nil
}

// tell says something to the agent, and remembers it for the next. An agent that does not take what it is told stands still, and is
// found by its beat.
func (m *machine) tell(e Event) {
	switch kind := e.kind(); {
	case kind == "":
	case e.Trouble != nil && e.Trouble.Over:
		delete(m.told, kind)
	default:
		m.told[kind] = e
	}
	if m.agent == nil || m.agent.dead {
		return
	}
	_ = m.agent.conn.SetWriteDeadline(time.Now().Add(lookEvery))
	if err := send(m.agent.conn, e, e.Files...); err != nil {
		m.log.Warn("agent is not told", "err", err)
	}
}

// kind names what a later agent must be told again: of each kind the newest.
func (e Event) kind() string {
	switch {
	case e.Network != nil:
		return "network"
	case e.Site != nil:
		return "site"
	case e.Trouble != nil:
		return "trouble " + e.Trouble.Refusal.Error()
	case e.System != nil:
		return "system"
	case e.Update != nil:
		return "update"
	}
	return ""
}

// onRequest does what the agent asks.
func (m *machine) onRequest(ctx context.Context, h heard) error {
	defer closeAll(h.packet.files)
	if h.from != m.agent {
		return nil
	}
	r := h.packet.message
	switch {
	case h.err != nil:
		if !errors.Is(h.err, io.EOF) && !errors.Is(h.err, unix.ECONNRESET) {
			m.log.Warn("the agent speaks against the rules", "err", h.err)
			m.nursery.end(h.from.child, unix.SIGKILL)
		}
		h.from.silent = true
		return m.nextAgent(ctx)
	case r.Beat:
		h.from.beat, h.from.beaten = time.Now(), true
	case r.Keep != nil && len(*r.Keep) > maxKept:
		m.log.Warn("the agent asks too much to be kept", "bytes", len(*r.Keep))
	case r.Keep != nil:
		clear(m.kept)
		m.kept = *r.Keep
	case r.Healthy != "":
		m.releases.healthy(r.Healthy)
		if r.Healthy == TunnelUp {
			select {
			case m.healthy <- struct{}{}:
			default: // it was said before
			}
		}
	case r.Install != nil && len(h.packet.files) == 1:
		m.releases.install(*r.Install, h.packet.files[0])
		h.packet.files[0] = nil // it has another owner now
	case r.Reboot != "":
		return fmt.Errorf("the agent asks: %.200q: %w", r.Reboot, errRestart)
	}
	return nil
}
