// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"encoding/binary"

	"sdbox/internal/ident"
	"sdbox/internal/refusal"
)

// Version is the version of this grammar; both ends name it in their Hello and a line with another one is closed.
const Version = 1

// How a box reaches its gateway: by ALPN (RFC 7301) at the front door, by port inside the tunnel.
const (
	DoorProtocol    = "sdbox/1"         // enrolment and attestation, by messages of this grammar
	BearerProtocol  = "sdbox-wg/1"      // the tunnel's packets, where UDP is blocked
	ReleaseProtocol = "sdbox-release/1" // files of a release: a Fetch, answered by a Fetched and the file
	LinePort        = 7000              // TCP, at the gateway's inner address
	MediaPort       = 7001              // UDP, at both inner addresses
)

// Fetch asks for a file of a release by its SHA-256 (bytes 0 to 31), from an offset on (32 to 39, big endian).
type Fetch [40]byte

// NewFetch makes a Fetch.
func NewFetch(sha256 [32]byte, offset int64) Fetch {
	var f Fetch
	copy(f[:], sha256[:])
	binary.BigEndian.PutUint64(f[32:], uint64(offset))
	return f
}

// SHA256 names the file.
func (f Fetch) SHA256() [32]byte { return [32]byte(f[:32]) }

// Offset is where to begin; who serves the file looks whether it lies in it.
func (f Fetch) Offset() int64 { return int64(binary.BigEndian.Uint64(f[32:])) }

// Fetched is the one byte that answers a Fetch.
type Fetched byte

// The answers. After anything but FetchedFile the connection ends.
const (
	FetchedFile  Fetched = 1 // the file follows, from the offset to its end
	FetchedNone  Fetched = 2 // there is no such file, or not from there on
	FetchedLater Fetched = 3 // too many fetch at once
)

// Hello opens every connection, both ways, before anything else. The gateway's carries what the box shows before it
// knows a person: the site's language and whom to call.
type Hello struct {
	Version  uint         `cbor:"1,keyasint"`
	Language refusal.Lang `cbor:"2,keyasint,omitempty"`
	Support  string       `cbor:"3,keyasint,omitempty"` // at most MaxText bytes: a telephone number or an address
	Now      int64        `cbor:"4,keyasint,omitempty"` // ms UTC, gateway only; the box shows it, never trusts it
	Box      string       `cbor:"5,keyasint,omitempty"` // the box's serial as the gateway knows it
}

// Beat is sent every 5 s both ways, and answered at once with Echo set, so that each end knows the delay of the line.
type Beat struct {
	Seq  uint64 `cbor:"1,keyasint"`
	Echo bool   `cbor:"2,keyasint,omitempty"`
}

// Refused answers a message that was understood and not granted. The line stays open.
type Refused struct {
	Refusal refusal.Refusal `cbor:"1,keyasint"`
	Re      Type            `cbor:"2,keyasint"` // the type refused
	Bubble  string          `cbor:"3,keyasint,omitempty"`
	Release []byte          `cbor:"4,keyasint,omitempty"` // at the front door: the signed note of the release this box should run
}

// Ended tells the box that its session is over, before anything closes. A zero Session means the line itself ends.
type Ended struct {
	Session ident.ID        `cbor:"1,keyasint"`
	Refusal refusal.Refusal `cbor:"2,keyasint"`
	Reason  string          `cbor:"3,keyasint,omitempty"` // the operator's own words, shown to the person
}

// EnrolRequest names a machine by its TPM; nothing in it is believed before the challenge is answered.
type EnrolRequest struct {
	EKPublic      []byte `cbor:"1,keyasint"` // TPMT_PUBLIC of the endorsement key
	EKCertificate []byte `cbor:"2,keyasint"` // X.509 DER as the manufacturer wrote it; may be empty
	AKPublic      []byte `cbor:"3,keyasint"` // TPMT_PUBLIC of the attestation key
	DevicePublic  []byte `cbor:"4,keyasint"` // TPMT_PUBLIC of the device key
	Certify       []byte `cbor:"5,keyasint"` // TPMS_ATTEST: the AK certifies the device key
	CertifySig    []byte `cbor:"6,keyasint"` // TPMT_SIGNATURE over Certify
}

// EnrolChallenge is a credential only the TPM that holds EK and AK can open (TPM 2.0 Part 1, 24).
type EnrolChallenge struct {
	Credential []byte `cbor:"1,keyasint"` // TPM2B_ID_OBJECT contents
	Secret     []byte `cbor:"2,keyasint"` // TPM2B_ENCRYPTED_SECRET contents
}

// EnrolAnswer returns the secret of the challenge.
type EnrolAnswer struct {
	Secret []byte `cbor:"1,keyasint"`
}

// EnrolResult carries the device certificate, then its issuers, without the root.
type EnrolResult struct {
	Chain [][]byte `cbor:"1,keyasint"` // X.509 DER, leaf first
}

// NonceRequest asks for a nonce; each use of one takes it away. One nonce is open per line and purpose, for 60 s.
type NonceRequest struct{}

// Nonce is 32 random bytes of the gateway, valid for 60 s and one use.
type Nonce struct {
	Nonce []byte `cbor:"1,keyasint"`
}

// PCR is one platform configuration register of the SHA-256 bank.
type PCR struct {
	Index  uint8  `cbor:"1,keyasint"`
	Digest []byte `cbor:"2,keyasint"`
}

// Evidence is what a box says of its state (RFC 9334, 8.1): a quote over its PCRs bound to this very connection.
type Evidence struct {
	Quote     []byte `cbor:"1,keyasint"`           // TPMS_ATTEST
	Signature []byte `cbor:"2,keyasint"`           // TPMT_SIGNATURE by the AK
	PCRs      []PCR  `cbor:"3,keyasint"`           // in index order
	AKPublic  []byte `cbor:"4,keyasint"`           // TPMT_PUBLIC; its Name must be the device certificate's
	TunnelKey Key    `cbor:"5,keyasint"`           // X25519, made at this boot
	Previous  []byte `cbor:"6,keyasint,omitempty"` // SHA-256 of the attestation result this one follows
	Log       []byte `cbor:"7,keyasint,omitempty"` // TCG event log, of its SHA-256 bank alone; may be missing
}

// Key is an X25519 public key or a 32-byte preshared key.
type Key [32]byte

// Lease is what a good attestation result buys: a WireGuard peer until Expires.
type Lease struct {
	Result         []byte   `cbor:"1,keyasint"` // COSE_Sign1, the attestation result
	GatewayKey     Key      `cbor:"2,keyasint"` // X25519
	PSK            Key      `cbor:"3,keyasint"`
	Address        string   `cbor:"4,keyasint"`           // inner IPv6 address of the box
	GatewayAddress string   `cbor:"5,keyasint"`           // inner IPv6 address of the gateway
	Endpoints      []string `cbor:"6,keyasint"`           // outer host:port, best first
	Expires        int64    `cbor:"7,keyasint"`           // ms UTC
	LifetimeMS     int64    `cbor:"8,keyasint"`           // the same as a duration: the box's clock may be wrong
	Release        []byte   `cbor:"9,keyasint,omitempty"` // the signed note of the release this box should run
}

// CardIn presents a card: its certificate, and a signature of key 9E over a PresenceStatement with an empty session.
type CardIn struct {
	Certificate []byte `cbor:"1,keyasint"` // X.509 DER of 9A
	Nonce       []byte `cbor:"2,keyasint"`
	Presence    []byte `cbor:"3,keyasint"` // ECDSA ASN.1 DER
}

// Person answers CardIn: whose card it is. The session exists from here on, without any right.
type Person struct {
	Session  ident.ID     `cbor:"1,keyasint"`
	Name     string       `cbor:"2,keyasint"`
	Language refusal.Lang `cbor:"3,keyasint"`
	Nonce    []byte       `cbor:"4,keyasint"` // for the login; a fresh Nonce follows every 30 s
}

// Offer and Answer set up the session's one PeerConnection (RFC 8829). The fingerprint is SHA-256 of the DTLS certificate.
type Offer struct {
	SDP         string `cbor:"1,keyasint"`
	Fingerprint []byte `cbor:"2,keyasint"`
}

// Answer is the gateway's reply to Offer.
type Answer struct {
	SDP         string `cbor:"1,keyasint"`
	Fingerprint []byte `cbor:"2,keyasint"`
}

// Login is the card's one signature, key 9A over the Transcript with this nonce.
type Login struct {
	Nonce     []byte `cbor:"1,keyasint"`
	Signature []byte `cbor:"2,keyasint"` // ECDSA ASN.1 DER
}

// Availability says what a bubble is doing before it is opened.
type Availability string

// The availabilities of a bubble in a person's list.
const (
	Open    Availability = "open"    // the person's desktop runs there
	Asleep  Availability = "asleep"  // it will be started
	Refuses Availability = "refuses" // Bubble.Refusal says why
)

// Bubble is one line of a person's list.
type Bubble struct {
	Name      string           `cbor:"1,keyasint"` // short name, the one Attach takes
	Title     string           `cbor:"2,keyasint"` // the project's name for people
	Colour    uint32           `cbor:"3,keyasint"` // 0xRRGGBB of the frame
	State     Availability     `cbor:"4,keyasint"`
	Until     int64            `cbor:"5,keyasint,omitempty"` // ms UTC the right ends; 0 = no end
	Countries []string         `cbor:"6,keyasint,omitempty"` // ISO 3166-1 alpha-2 the bubble may be opened from; empty = anywhere
	Refusal   *refusal.Refusal `cbor:"7,keyasint,omitempty"`
}

// Bubbles answers Login and Resume: the person's projects in the order of the site, and the grant over those that are open to her.
// Without a grant it is the list as it is now, whenever that differs from the one before: a desktop began or ended, a right changed.
type Bubbles struct {
	List  []Bubble `cbor:"1,keyasint"`
	Grant Grant    `cbor:"2,keyasint,omitzero"`
}

// Grant is a right for a short time (COSE_Sign1 of the gateway). It is renewed while the card stays, by Presence.
type Grant struct {
	Statement []byte `cbor:"1,keyasint"`
	LifeMS    int64  `cbor:"2,keyasint"`
	Nonce     []byte `cbor:"3,keyasint"` // for the next Presence
	Epoch     uint64 `cbor:"4,keyasint"` // of the session's owner, as in the statement; Resume names it
}

// Presence renews a grant: key 9E over a PresenceStatement of this session.
type Presence struct {
	Session   ident.ID `cbor:"1,keyasint"`
	Nonce     []byte   `cbor:"2,keyasint"`
	Signature []byte   `cbor:"3,keyasint"`
}

// Attach asks for the picture of a bubble, at the size of the box's screen less frame and bar. Stream numbers the attach:
// frames of any other stream are not of this bubble and are dropped.
type Attach struct {
	Session ident.ID `cbor:"1,keyasint"`
	Bubble  string   `cbor:"2,keyasint"`
	Stream  uint16   `cbor:"3,keyasint"`
	Width   uint16   `cbor:"4,keyasint"`
	Height  uint16   `cbor:"5,keyasint"`
	Layout  string   `cbor:"6,keyasint,omitempty"` // keyboard layout the desktop is set to: "fr", "us"
}

// Attached says that frames of Stream are those of Bubble from now on.
type Attached struct {
	Bubble string `cbor:"1,keyasint"`
	Stream uint16 `cbor:"2,keyasint"`
}

// Leaving says why a box lets go.
type Leaving string

// The reasons of a Detach.
const (
	CardOut Leaving = "card-out" // the card left the reader: the session ends, the desktops go on
	Menu    Leaving = "menu"     // back to the list: the session stays
)

// Detach lets go of the bubble (Menu) or of the whole session (CardOut).
type Detach struct {
	Session ident.ID `cbor:"1,keyasint"`
	Why     Leaving  `cbor:"2,keyasint"`
}

// Event tells the gateway what the box refused by itself, with the suffix the person reads on the screen.
type Event struct {
	Session ident.ID        `cbor:"1,keyasint"`
	Refusal refusal.Refusal `cbor:"2,keyasint"`
}

// Notice is a message to the person that changes nothing: an operator's own words, or a refusal to come (a right that ends soon, a
// bubble that takes time to start). One of Text and Refusal is set.
type Notice struct {
	Text    string           `cbor:"1,keyasint,omitempty"` // at most MaxNotice bytes, one line
	At      int64            `cbor:"2,keyasint"`           // ms UTC
	Refusal *refusal.Refusal `cbor:"3,keyasint,omitempty"`
}

// MaxNotice is the longest Notice.Text, in bytes.
const MaxNotice = 1000

// Resume asks for a session back after the line broke, without a finger: the same box, the same card, the same login. Presence is
// a signature of key 9E over a PresenceStatement with this Session. Bubbles answers it, or Refused: then the person logs in anew.
type Resume struct {
	Session     ident.ID `cbor:"1,keyasint"`
	Epoch       uint64   `cbor:"2,keyasint"` // of the last Grant
	Transcript  []byte   `cbor:"3,keyasint"` // SHA-256 of the login's Transcript
	Certificate []byte   `cbor:"4,keyasint"` // X.509 DER of 9A
	Nonce       []byte   `cbor:"5,keyasint"`
	Presence    []byte   `cbor:"6,keyasint"` // ECDSA ASN.1 DER
}

// EndDesktop ends the person's own desktop in a bubble, with the programs in it. The list without it answers, or Refused.
type EndDesktop struct {
	Session ident.ID `cbor:"1,keyasint"`
	Bubble  string   `cbor:"2,keyasint"`
}

// Watched says whether an operator looks at exactly this session now: the box says so to the person as long as it is on.
type Watched struct {
	Session ident.ID `cbor:"1,keyasint"`
	On      bool     `cbor:"2,keyasint"`
}

// Transcript is what key 9A signs at login; both ends build it from what they know themselves, so it never crosses the line.
type Transcript struct {
	_                  struct{} `cbor:",toarray"`
	Context            string   // "sdbox-login-1"
	Nonce              []byte
	GatewayCertificate []byte // SHA-256 of the DER
	GatewayTunnelKey   Key
	GatewayStream      []byte // SHA-256 of the DTLS certificate
	Result             []byte // SHA-256 of the attestation result
	DeviceCertificate  []byte // SHA-256 of the DER
	BoxTunnelKey       Key
	BoxStream          []byte
	PersonCertificate  []byte // SHA-256 of the DER
}

// PresenceStatement is what key 9E signs: the card is in this box now. Session is empty at card-in, and names the session whose
// grant is renewed or that comes back.
type PresenceStatement struct {
	_         struct{} `cbor:",toarray"`
	Context   string   // "sdbox-presence-1"
	Nonce     []byte
	Session   []byte
	TunnelKey Key
}

// AttestationBinding is what a quote's qualifying data hashes: the quote is for this nonce, key, gateway, tunnel and channel only.
type AttestationBinding struct {
	_         struct{} `cbor:",toarray"`
	Context   string   // "sdbox-attest-1"
	Nonce     []byte
	Device    []byte // SHA-256 of the device key's SubjectPublicKeyInfo
	Gateway   []byte // SHA-256 of the gateway's SubjectPublicKeyInfo
	TunnelKey Key
	Exporter  []byte // TLS exporter, label ExporterLabel, 32 bytes
}

// The contexts of the signed structures, and the TLS exporter label of the attestation channel (RFC 9266 in spirit, own label).
const (
	LoginContext    = "sdbox-login-1"
	PresenceContext = "sdbox-presence-1"
	AttestContext   = "sdbox-attest-1"
	ExporterLabel   = "EXPORTER-sdbox-attest-1"
)
