// SPDX-License-Identifier: Apache-2.0

package console

import "time"

// The JSON bodies of /api/v1, shared with sdboxctl. Times are RFC 3339 in UTC; hashes and keys are lower-case hexadecimal.

// Box is POST and GET /api/v1/boxes. Only serial, ek, country, model, site and outer are taken by POST.
type Box struct {
	Serial  string   `json:"serial"`
	EK      string   `json:"ek"`      // SHA-256 of the endorsement key's TPMT_PUBLIC: which machine
	Country string   `json:"country"` // ISO 3166-1 alpha-2 of the place the box is registered at
	Model   string   `json:"model"`   // hardware model: which releases it is offered
	Site    string   `json:"site"`    // where it stands, for people
	Outer   []string `json:"outer"`   // address prefixes the box may connect from; empty = anywhere

	Address  string    `json:"address,omitempty"` // inner IPv6 address
	Enrolled bool      `json:"enrolled"`
	Attested bool      `json:"attested"`
	Locked   bool      `json:"locked"`
	System   string    `json:"system,omitempty"` // name and version of the reference values that it equals now
	Until    time.Time `json:"until,omitzero"`   // end of the present attestation result
}

// Person is POST and GET /api/v1/people.
type Person struct {
	ID       string `json:"id,omitempty"` // given by the gateway
	Name     string `json:"name"`
	Language string `json:"language"` // "fr" or "en"
}

// Card is POST and GET /api/v1/cards. The GUID is read from the certificate.
type Card struct {
	GUID        string `json:"guid,omitempty"`
	Person      string `json:"person"`                // id of the person
	Certificate string `json:"certificate,omitempty"` // PEM of the 9A certificate
	Presence    string `json:"presence,omitempty"`    // PEM of the 9E certificate
	State       string `json:"state,omitempty"`       // "valid", "locked", "revoked"
}

// Bubble is POST and GET /api/v1/bubbles.
type Bubble struct {
	Name      string    `json:"name"`
	Title     string    `json:"title"`
	Colour    string    `json:"colour"`            // "#rrggbb" of the frame
	Address   string    `json:"address"`           // host:port of its sdbox-bubble
	Account   string    `json:"account,omitempty"` // the account all members use; empty = each membership names one
	Countries []string  `json:"countries"`         // from which it may be opened; empty = anywhere
	Opens     time.Time `json:"opens,omitzero"`
	Closes    time.Time `json:"closes,omitzero"`
	Place     int64     `json:"place"` // position in a person's list, lowest first
}

// Membership is POST and GET /api/v1/memberships.
type Membership struct {
	Person  string    `json:"person"` // id
	Bubble  string    `json:"bubble"` // name
	Account string    `json:"account"`
	From    time.Time `json:"from,omitzero"`
	Until   time.Time `json:"until,omitzero"` // zero = no end
}

// Reference is POST and GET /api/v1/references: a signed note of reference values.
type Reference struct {
	Name  string `json:"name"`  // for people: the image's version
	Model string `json:"model"` // the hardware model it is for
	Note  string `json:"note"`  // C2SP signed note, as its signers wrote it
}

// Lock is POST and GET /api/v1/locks: it stops one thing from being used, at once.
type Lock struct {
	ID      string    `json:"id,omitempty"`
	Target  string    `json:"target"`  // "person:ID", "card:GUID", "box:SERIAL", "bubble:NAME", "site:NAME", "certificate:SHA256"
	Message string    `json:"message"` // why, for people
	Ends    time.Time `json:"ends,omitzero"`
}

// Reason is the body of the acts that only need one: POST /api/v1/boxes/{serial}/retire, /api/v1/cards/{guid}/revoke,
// /api/v1/locks/{id}/lift.
type Reason struct {
	Reason string `json:"reason"`
}

// Ping is GET /api/v1/boxes/{serial}/ping.
type Ping struct {
	Box string  `json:"box"`
	MS  float64 `json:"ms"` // one round trip through the tunnel, between the gateway's process and the box's
}

// Removal is POST /api/v1/memberships/remove: a person leaves a bubble. A session she has there ends with the right, the others stay.
type Removal struct {
	Person string `json:"person"` // id
	Bubble string `json:"bubble"` // name
	Reason string `json:"reason"`
}

// Retirement is POST /api/v1/references/retire: a note is accepted no more. Boxes that were let in by it stay until they attest again.
type Retirement struct {
	Name   string `json:"name"`
	Reason string `json:"reason"`
}

// Release is POST and GET /api/v1/releases: a signed release of a box's system. Of what is sent only the note is read.
type Release struct {
	Model   string        `json:"model,omitempty"`
	Version string        `json:"version,omitempty"`
	Minimum string        `json:"minimum,omitempty"` // the oldest version that may replace it
	Expires time.Time     `json:"expires,omitzero"`
	Offered bool          `json:"offered,omitempty"`
	Files   []ReleaseFile `json:"files,omitempty"`
	Note    string        `json:"note,omitempty"` // C2SP signed note, as its signers wrote it
}

// ReleaseFile is a file that a box fetches, PUT /api/v1/releases/files/{sha256}.
type ReleaseFile struct {
	SHA256  string `json:"sha256"`
	Size    int64  `json:"size"`
	From    string `json:"from,omitempty"` // the version that a delta applies to; empty = the whole system
	Present bool   `json:"present"`
}

// ReleaseName is POST /api/v1/releases/offer, and with a reason POST /api/v1/releases/retire.
type ReleaseName struct {
	Model   string `json:"model"`
	Version string `json:"version"`
	Reason  string `json:"reason,omitempty"`
}

// Session is GET /api/v1/sessions.
type Session struct {
	ID      string    `json:"id"`
	Person  string    `json:"person"`
	Box     string    `json:"box"`
	Country string    `json:"country"`
	Bubble  string    `json:"bubble,omitempty"`
	Title   string    `json:"title,omitempty"`
	Colour  string    `json:"colour,omitempty"` // "#rrggbb"
	State   string    `json:"state"`
	Since   time.Time `json:"since"`
	DelayMS int64     `json:"delay_ms,omitempty"`

	LostSince time.Time `json:"lost_since,omitzero"`  // a suspended session whose card is in, but whose box's line is gone
	WatchedBy []string  `json:"watched_by,omitempty"` // operators with its page open
}

// Shown is the state as pages show it: a session that is suspended by itself is another thing than one that the person left.
func (s Session) Shown() string {
	if s.State == "suspended" && !s.LostSince.IsZero() {
		return "lost"
	}
	return s.State
}

// CanCut says whether there is still something to cut.
func (s Session) CanCut() bool { return s.State != "ended" && s.State != "ending" }

// Cut is POST /api/v1/sessions/{id}/cut.
type Cut struct {
	Reason string `json:"reason"` // 3 to 200 characters, read by the person on the screen
}

// CanTell says whether somebody is there to read a message.
func (s Session) CanTell() bool {
	return s.State == "authorised" || s.State == "starting" || s.State == "active"
}

// Message is POST /api/v1/sessions/{id}/message.
type Message struct {
	Text string `json:"text"` // 3 to 200 characters, read by the person on the screen
}

// Why is one answer of GET /api/v1/refusals/{code-suffix}, newest first: what the audit log says of it.
type Why struct {
	At      time.Time         `json:"at"`
	Code    string            `json:"code"`
	Action  string            `json:"action"`
	Actor   string            `json:"actor"`
	Object  string            `json:"object"`
	Session string            `json:"session,omitempty"`
	Detail  map[string]string `json:"detail,omitempty"` // what the screen does not say
	Means   string            `json:"means"`            // what the screen says, in English
	Fix     string            `json:"fix"`              // who can end it: person, it, support, centre
}

// Problem is the body of every answer that is not a success.
type Problem struct {
	Error string `json:"error"`
	Hint  string `json:"hint,omitempty"`
}
