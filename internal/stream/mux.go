// SPDX-License-Identifier: Apache-2.0

package stream

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/pion/datachannel"
	"github.com/pion/dtls/v3"
	"github.com/pion/ice/v4"
	"github.com/pion/interceptor"
	"github.com/pion/interceptor/pkg/cc"
	"github.com/pion/interceptor/pkg/nack"
	rtcpreport "github.com/pion/interceptor/pkg/report"
	"github.com/pion/logging"
	"github.com/pion/rtcp"
	"github.com/pion/webrtc/v4"
)

const (
	mimeType    = "video/sdtile"
	payloadType = 100
	clockRate   = 90000 // RFC 3551, 5
	channelID   = 1

	nackInterval = 10 * time.Millisecond

	// dtlsRetry is how soon a lost handshake packet is sent again (RFC 9147, 5.8.2 says 1 s, for the open internet).
	dtlsRetry = 150 * time.Millisecond

	// An ICE agent nominates the pair that answered when it next looks, every 200 ms: as long as all the rest of the way to
	// the first picture. It looks at least as often as its shortest time-out, and the sum of two of them is what ends a stream
	// that hears nothing: so one of them is short. Each look sends a request until there is an answer; all are allowed.
	iceLook   = 20 * time.Millisecond
	iceSilent = 30 * time.Second
	iceAlive  = 2 * time.Second

	// resendRate bounds what a box can make the gateway send by asking again, in bit/s. It is the loss of 13 % of the
	// fastest picture.
	resendRate = 40_000_000

	// resendSize is how many of its last packets a gateway can resend: 128 ms of the fastest picture, and 6 MB.
	resendSize = 4096

	// maxBadInARow is how many packets that are none in a row end a stream.
	maxBadInARow = 10_000

	// maxMessage is the largest data channel message either end takes; an honest one is half as long.
	maxMessage = 2048

	// channelBacklog is how much may wait in SCTP: more is stale by the time it goes out, and is said again anyway.
	channelBacklog = 16 << 10
)

// Mux carries any number of streams over one socket: one box's, or those of all boxes on a gateway's port 7001.
type Mux struct {
	mux     *ice.UDPMuxDefault
	offer   *webrtc.API // what a box uses
	answer  *webrtc.API // what a gateway uses: ICE-lite (RFC 8445, 2.5)
	loggers logging.LoggerFactory
}

// NewMux takes over a socket inside the tunnel, bound to one IPv6 address. Close closes it.
func NewMux(conn net.PacketConn) (*Mux, error) {
	m := &Mux{loggers: &logging.DefaultLoggerFactory{Writer: io.Discard, DefaultLogLevel: logging.LogLevelDisabled}}
	m.mux = ice.NewUDPMuxDefault(ice.UDPMuxParams{UDPConn: conn, Logger: m.loggers.NewLogger("ice")})
	var err error
	if m.offer, err = m.api(false); err == nil {
		m.answer, err = m.api(true)
	}
	if err != nil {
		m.Close()
		return nil, fmt.Errorf("set up WebRTC: %w", err)
	}
	return m, nil
}

// Close closes the socket. Close the streams first.
func (m *Mux) Close() error { return m.mux.Close() }

// reportWindow is how many bytes of reports may be on their way: those of some 15 s without an answer.
const reportWindow = 64 << 10

func (m *Mux) settings(gateway bool) webrtc.SettingEngine {
	s := webrtc.SettingEngine{LoggerFactory: m.loggers}
	s.SetICEUDPMux(m.mux)
	s.SetNetworkTypes([]webrtc.NetworkType{webrtc.NetworkTypeUDP6})
	s.SetICEMulticastDNSMode(ice.MulticastDNSModeDisabled)
	s.SetIncludeLoopbackCandidate(true) // the socket's own address is the one candidate, whichever it is
	s.SetHostAcceptanceMinWait(0)
	if !gateway {
		s.SetICETimeouts(iceSilent-iceLook, iceLook, iceAlive)
		s.SetICEMaxBindingRequests(uint16(iceSilent / iceLook))
	}
	s.SetLite(gateway)
	s.SetDTLSRetransmissionInterval(dtlsRetry)
	s.SetDTLSInsecureSkipHelloVerify(true) // a cookie against spoofed sources: inside WireGuard there are none
	s.SetSRTPProtectionProfiles(dtls.SRTP_AEAD_AES_128_GCM)
	s.SetSRTPReplayProtectionWindow(window) // the default of 64 drops most repairs of a large frame
	s.EnableSctpSnap(true)
	s.EnableSCTPZeroChecksum(true) // DTLS has its own
	s.SetSCTPMaxMessageSize(64 << 10)
	s.SetSCTPMaxReceiveBufferSize(1 << 20)
	// Reports of input repeat themselves: none waits for the loss of another to be noticed, which after a network's silence of
	// 1.4 s would be 3 s later. They are paced and small, and no window need slow them down.
	s.SetSCTPMinCwnd(reportWindow)
	s.SetSCTPRTOMax(time.Second)
	s.DetachDataChannels()
	return s
}

func (m *Mux) api(gateway bool) (*webrtc.API, error) {
	media := &webrtc.MediaEngine{}
	codec := webrtc.RTPCodecParameters{RTPCodecCapability: capability(), PayloadType: payloadType}
	if err := media.RegisterCodec(codec, webrtc.RTPCodecTypeVideo); err != nil {
		return nil, err
	}
	// By hand: the ready-made set asks again after 100 ms, not 10, and stamps each copy of a packet with a number of
	// its own (TWCC), which would be one nonce for two texts.
	registry := &interceptor.Registry{}
	if gateway {
		resend, err := nack.NewResponderInterceptor(nack.ResponderSize(resendSize))
		if err != nil {
			return nil, err
		}
		reports, err := rtcpreport.NewSenderInterceptor()
		if err != nil {
			return nil, err
		}
		limit, err := cc.NewInterceptor(func() (cc.BandwidthEstimator, error) { return fixedRate{}, nil })
		if err != nil {
			return nil, err
		}
		registry.Add(limit) // before the one that looks at it
		registry.Add(resend)
		registry.Add(reports)
	} else {
		ask, err := nack.NewGeneratorInterceptor(nack.GeneratorInterval(nackInterval), nack.GeneratorSize(window))
		if err != nil {
			return nil, err
		}
		reports, err := rtcpreport.NewReceiverInterceptor()
		if err != nil {
			return nil, err
		}
		registry.Add(ask)
		registry.Add(reports)
	}
	return webrtc.NewAPI(webrtc.WithMediaEngine(media), webrtc.WithInterceptorRegistry(registry),
		webrtc.WithSettingEngine(m.settings(gateway))), nil
}

// fixedRate is the bandwidth estimator that always says resendRate: the responder resends no faster.
type fixedRate struct{}

// AddStream leaves packets as they are.
func (fixedRate) AddStream(_ *interceptor.StreamInfo, w interceptor.RTPWriter) interceptor.RTPWriter {
	return w
}

// WriteRTCP learns nothing.
func (fixedRate) WriteRTCP([]rtcp.Packet, interceptor.Attributes) error { return nil }

// GetTargetBitrate is in bit/s.
func (fixedRate) GetTargetBitrate() int { return resendRate }

// OnTargetBitrateChange never calls: nothing changes.
func (fixedRate) OnTargetBitrateChange(func(int)) {}

// GetStats has none.
func (fixedRate) GetStats() map[string]any { return nil }

// Close does nothing.
func (fixedRate) Close() error { return nil }

func capability() webrtc.RTPCodecCapability {
	return webrtc.RTPCodecCapability{
		MimeType: mimeType, ClockRate: clockRate,
		RTCPFeedback: []webrtc.RTCPFeedback{{Type: "nack"}, {Type: "nack", Parameter: "pli"}},
	}
}

// peer is what both ends of a stream have: a PeerConnection, its data channel, and the goroutines that serve them.
//
//	new -> connecting -> ready -> done
//	          +---------------------^    refused certificate, ICE failed, closed
type peer struct {
	pc      *webrtc.PeerConnection
	channel chan *datachannel.DataChannel // capacity 1: the open channel
	ready   chan struct{}                 // closed when the channel is open and the certificate right
	ctx     context.Context               // done when the stream is
	cancel  context.CancelCauseFunc
	running sync.WaitGroup
	closing sync.Once

	mu          sync.Mutex
	fingerprint []byte // guarded by mu: of the other end
}

func newPeer(api *webrtc.API, cert *Certificate) (*peer, error) {
	pc, err := api.NewPeerConnection(webrtc.Configuration{Certificates: []webrtc.Certificate{cert.pion}})
	if err != nil {
		return nil, err
	}
	p := &peer{pc: pc, channel: make(chan *datachannel.DataChannel, 1), ready: make(chan struct{})}
	p.ctx, p.cancel = context.WithCancelCause(context.Background())
	pc.OnConnectionStateChange(func(state webrtc.PeerConnectionState) {
		if state == webrtc.PeerConnectionStateFailed || state == webrtc.PeerConnectionStateClosed {
			p.cancel(fmt.Errorf("stream: connection %s", state))
		}
	})
	// The one channel is agreed upon beforehand. Another one would be a way to make this end hold things.
	pc.OnDataChannel(func(*webrtc.DataChannel) { p.cancel(errors.New("stream: the other end opened a channel of its own")) })
	yes, no, never, id := true, false, uint16(0), uint16(channelID)
	dc, err := pc.CreateDataChannel("input", &webrtc.DataChannelInit{Negotiated: &yes, ID: &id, Ordered: &no, MaxRetransmits: &never})
	if err != nil {
		p.close()
		return nil, err
	}
	dc.OnOpen(func() {
		raw, err := dc.Detach()
		if err != nil {
			p.cancel(fmt.Errorf("stream: open data channel: %w", err))
			return
		}
		if channel, ok := raw.(*datachannel.DataChannel); ok {
			p.channel <- channel
		}
	})
	return p, nil
}

// open waits until the channel is there, and makes sure once more whose it is.
func (p *peer) open() *datachannel.DataChannel {
	select {
	case <-p.ctx.Done():
		return nil
	case channel := <-p.channel:
		sum := sha256.Sum256(p.pc.SCTP().Transport().GetRemoteCertificate())
		p.mu.Lock()
		want := p.fingerprint
		p.mu.Unlock()
		if subtle.ConstantTimeCompare(sum[:], want) != 1 {
			p.cancel(ErrFingerprint)
			return nil
		}
		close(p.ready)
		return channel
	}
}

// describe sets a local description and returns it once it names the candidate.
func (p *peer) describe(ctx context.Context, sdp webrtc.SessionDescription) (string, error) {
	gathered := webrtc.GatheringCompletePromise(p.pc)
	if err := p.pc.SetLocalDescription(sdp); err != nil {
		return "", err
	}
	select {
	case <-gathered:
		return p.pc.LocalDescription().SDP, nil
	case <-ctx.Done():
		return "", ctx.Err()
	}
}

// accept takes the other end's description, after checking whom it names.
func (p *peer) accept(kind webrtc.SDPType, sdp string, fingerprint []byte) error {
	if err := checkSDP(sdp, fingerprint); err != nil {
		return err
	}
	p.mu.Lock()
	p.fingerprint = fingerprint
	p.mu.Unlock()
	return p.pc.SetRemoteDescription(webrtc.SessionDescription{Type: kind, SDP: sdp})
}

// receive hands each message of the channel to take until the stream ends.
func (p *peer) receive(channel *datachannel.DataChannel, take func([]byte)) {
	buf := make([]byte, maxMessage)
	for p.ctx.Err() == nil {
		n, err := channel.Read(buf)
		if err != nil {
			// A message longer than the buffer ends the stream as well: pion would give it again for ever.
			p.cancel(fmt.Errorf("stream: data channel: %w", err))
			return
		}
		take(buf[:n])
	}
}

// send sends a message unless too much waits already.
func (p *peer) send(channel *datachannel.DataChannel, message []byte) {
	if channel.BufferedAmount() > channelBacklog {
		return
	}
	if _, err := channel.Write(message); err != nil {
		p.cancel(fmt.Errorf("stream: data channel: %w", err))
	}
}

// drain reads until the connection ends. A packet that is none is dropped.
func (p *peer) drain(read func() error) {
	bad := 0
	for p.ctx.Err() == nil {
		err := read()
		switch {
		case err == nil:
			bad = 0
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrClosedPipe), bad == maxBadInARow:
			p.cancel(fmt.Errorf("stream: read: %w", err))
		default:
			bad++
		}
	}
}

// err is why the stream ended, nil while it lives.
func (p *peer) err() error { return context.Cause(p.ctx) }

// close ends the stream and waits for every goroutine of it.
func (p *peer) close() {
	p.closing.Do(func() {
		p.cancel(ErrClosed)
		p.pc.GracefulClose() // its errors are of a connection that is being thrown away
	})
	p.running.Wait()
}
