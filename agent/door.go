// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"syscall"
	"time"

	"sdbox/firmware/eventlog"
	"sdbox/internal/line"
	"sdbox/internal/wire"

	"golang.org/x/sys/unix"
)

// Limits of a visit to the front door (implementation).
const (
	doorTimeout = 10 * time.Second // one whole visit to the front door
	maxSegment  = 1200             // bytes; a path that drops larger packets in silence still carries the post-quantum hello
)

// errChip is wrapped by what the machine's TPM fails in, before the gateway has a say.
var errChip = errors.New("the TPM")

// errRefused says that the gateway understood this box and refused it; the refusal goes with it.
type errRefused struct{ refused *wire.Refused }

func (e errRefused) Error() string { return "the gateway refused: " + e.refused.Refusal.Error() }

// door is one visit to the gateway's front door.
type door struct {
	line     *line.Conn
	gateway  *x509.Certificate
	exporter []byte // 32 bytes, binds a quote to this channel
}

// visit opens a TLS connection to one gateway address and greets. The certificate is nil before enrolment.
func (l *link) visit(ctx context.Context, address string, certificate *tls.Certificate) (*door, error) {
	conn, err := l.dial(ctx, address, wire.DoorProtocol, certificate)
	if err != nil {
		return nil, fmt.Errorf("front door %s: %w", address, err)
	}
	d, err := newDoor(conn)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("front door %s: %w", address, err), conn.Close())
	}
	return d, nil
}

// dial opens a TLS connection for one of the front door's protocols.
func (l *link) dial(ctx context.Context, address, protocol string, certificate *tls.Certificate) (*tls.Conn, error) {
	cfg := &tls.Config{
		MinVersion:             tls.VersionTLS13,
		CurvePreferences:       []tls.CurveID{tls.X25519MLKEM768}, // the lease's preshared key is post-quantum only if this channel is
		RootCAs:                l.cfg.Root,
		ServerName:             l.cfg.GatewayName,
		NextProtos:             []string{protocol},
		SessionTicketsDisabled: true,
		VerifyConnection: func(cs tls.ConnectionState) error {
			if cs.CurveID != tls.X25519MLKEM768 || cs.NegotiatedProtocol != protocol {
				return fmt.Errorf("the centre answered with key exchange %v, protocol %q", cs.CurveID, cs.NegotiatedProtocol)
			}
			return nil
		},
	}
	if certificate != nil {
		cfg.Certificates = []tls.Certificate{*certificate}
	}
	dialer := &tls.Dialer{Config: cfg, NetDialer: &net.Dialer{ControlContext: smallSegments}}
	conn, err := dialer.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	return conn.(*tls.Conn), nil
}

// bearer opens what carries the tunnel where UDP is blocked, with the certificate of the last attestation. The tunnel calls it,
// and keeps it open.
func (l *link) bearer(ctx context.Context, address string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, doorTimeout)
	defer cancel()
	conn, err := l.dial(ctx, address, wire.BearerProtocol, l.identified.Load())
	if err != nil {
		return nil, fmt.Errorf("tunnel by TLS to %s: %w", address, err)
	}
	return conn, nil
}

func newDoor(conn *tls.Conn) (*door, error) {
	state := conn.ConnectionState()
	exporter, err := state.ExportKeyingMaterial(wire.ExporterLabel, nil, 32)
	if err != nil {
		return nil, fmt.Errorf("channel binding: %w", err)
	}
	ln, err := line.New(conn, wire.FromGateway, doorTimeout)
	if err != nil {
		return nil, err
	}
	if _, err := ln.Greet(&wire.Hello{}); err != nil {
		return nil, err
	}
	return &door{line: ln, gateway: state.PeerCertificates[0], exporter: exporter}, nil
}

func smallSegments(_ context.Context, _, _ string, c syscall.RawConn) error {
	var err error
	if e := c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_MAXSEG, maxSegment) }); e != nil {
		return e
	}
	return err
}

func (d *door) close() { _ = d.line.Close() } // the visit is over either way; there is nobody to tell

// ask sends one message and returns the answer, which must be of type M.
func ask[M wire.Message](d *door, m wire.Message) (M, error) {
	var zero M
	if err := d.line.Write(m); err != nil {
		return zero, err
	}
	reply, err := d.line.Read()
	if err != nil {
		return zero, fmt.Errorf("waiting for the answer to %T: %w", m, err)
	}
	switch reply := reply.(type) {
	case M:
		return reply, nil
	case *wire.Refused:
		return zero, errRefused{reply}
	default:
		return zero, fmt.Errorf("%w: %T in answer to %T", wire.ErrGrammar, reply, m)
	}
}

// eventLog reads what this boot measured. A machine without a log, or with one that is none, is the gateway's to judge.
func (l *link) eventLog() *eventlog.Log {
	log, err := eventlog.Read(l.cfg.EventLog)
	if err != nil {
		l.log.Warn("no event log", "err", err)
		return nil
	}
	return log
}

func sum(b []byte) []byte {
	h := sha256.Sum256(b)
	return h[:]
}
