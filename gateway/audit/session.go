// SPDX-License-Identifier: Apache-2.0

package audit

import (
	"bufio"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"sdbox/firmware/reference"
	"sdbox/gateway/store"
	"sdbox/internal/ident"
	"sdbox/internal/wire"
	"sdbox/pki/profile"
)

// Roots is what a check of a session believes beforehand: certificates and release keys. It needs nothing of the gateway.
type Roots struct {
	Trust *profile.Trust
	Notes *reference.Trust
}

// Part is one of the things that a session binds together.
type Part string

// The parts.
const (
	Box    Part = "box"    // the machine: device certificate, attestation key, endorsement by registration
	State  Part = "state"  // what the machine ran: registers, reference values, attestation result
	Card   Part = "card"   // the person's card: its certificate, its two signatures
	Tunnel Part = "tunnel" // the way between: tunnel keys, TLS channel, gateway certificate, stream certificates
	Bubble Part = "bubble" // what was opened: the grant, and the bubbles it names
)

// ExchangedError says which part of a session's evidence is not the one that the others were made with.
type ExchangedError struct {
	Part   Part
	Row    int64 // of the audit log
	Detail string
}

// Error names part and row: "the tunnel was exchanged (audit row 42: ...)".
func (e *ExchangedError) Error() string {
	return fmt.Sprintf("the %s was exchanged (audit row %d: %s)", e.Part, e.Row, e.Detail)
}

// What an auditor must tell apart from an exchange.
var (
	// ErrNoSession says that the log knows no such session.
	ErrNoSession = errors.New("the audit log knows no such session")
	// ErrNoLogin says that nobody logged in: a card was in, and no finger proved it. There is nothing to exchange.
	ErrNoLogin = errors.New("the session has no login")
	// ErrErased says that the card's certificate was erased with the other personal values: the login can no longer be checked.
	ErrErased = errors.New("the evidence was erased after its retention")
)

// SessionReport is what the evidence of a session proves.
type SessionReport struct {
	Session      ident.ID
	Person       string // id
	Card         string // GUID
	Method       string // how the card made sure of its person
	Box          string // serial
	Reference    string // name and version of the reference values that the box equalled
	Gateway      string // short name, of its certificate
	LoggedIn     time.Time
	Last         time.Time // of the session's last row
	Attestations int       // results of the box during the session, each checked
	Grants       int       // likewise, each with the card's presence but the first
	Resumes      int       // how often it came back without a finger, each with the card's presence
	Bubbles      []string  // opened, in the order of the first opening
	Rows         int64     // of the whole log, which was checked first
}

// event is one row of the log that the check of a session reads.
type event struct {
	store.Leaf
	personal map[string]string
}

func (e *event) at() time.Time { return time.UnixMilli(e.At) }

// bytes returns a field that holds hexadecimal digits; nil if it does not.
func (e *event) bytes(name string) []byte {
	b, err := hex.DecodeString(e.Fields[name])
	if err != nil {
		return nil
	}
	return b
}

// VerifySession checks an export as Verify does, and then the evidence of one session in it, from the roots: the quote of the box and
// its reference values, the certificates, the login's transcript under the card's signature, every grant, every bubble that was opened.
// The first thing that does not fit is an *ExchangedError.
func VerifySession(dir, verifier string, id ident.ID, roots Roots) (SessionReport, error) {
	whole, err := Verify(dir, verifier)
	if err != nil {
		return SessionReport{}, err
	}
	f, err := collect(dir, id)
	if err != nil {
		return SessionReport{}, fmt.Errorf("session %s: %w", id, err)
	}
	f.roots, f.report = roots, SessionReport{Session: id, Rows: whole.Rows}
	if err := f.check(); err != nil {
		return SessionReport{}, fmt.Errorf("session %s: %w", id, err)
	}
	return f.report, nil
}

// Sessions lists the sessions of an export in which somebody logged in, the oldest first. Verify the export before.
func Sessions(dir string) (ids []ident.ID, err error) {
	err = each(dir, func(e event) error {
		if e.Action != "login.proved" {
			return nil
		}
		id, err := ident.ParseID(e.Session)
		if err == nil && !slices.Contains(ids, id) {
			ids = append(ids, id)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("audit export: %w", err)
	}
	return ids, nil
}

// file is the evidence of one session, as the log holds it.
type file struct {
	roots  Roots
	report SessionReport

	session  []event          // its own rows, in order
	gateways []event          // gateway.up
	cards    []event          // card.add of its card
	members  []event          // membership.add of its person
	notes    map[string]event // reference.add, by the note's hash
	attested []event          // box.attested of its box, from the login's result to the session's end
	boots    map[string]event // box.attested of its box with its certificate, by the certificate's hash
	logs     map[string]event // box.attested of its box with an event log, by the log's hash
	results  map[string]int64 // the rows of all results of its box, by their hash

	create, login *event
	elsewhere     string // the box that the login's result was given to, if it is another
	person        profile.Person
	gateway       gatewayEnd
	state         attested        // the login's
	tunnels       []wire.Key      // of all attestations that were checked
	signed        wire.Transcript // what the card signed at the login, when that was checked
}

func broken(part Part, e *event, format string, args ...any) error {
	return &ExchangedError{Part: part, Row: e.Seq, Detail: fmt.Sprintf(format, args...)}
}

// each calls yield for every row of an export that was verified before.
func each(dir string, yield func(event) error) error {
	in, err := os.Open(filepath.Join(dir, rowsFile))
	if err != nil {
		return err
	}
	defer in.Close() // only read from
	return eachLine(in, yield)
}

func eachLine(in io.Reader, yield func(event) error) error {
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, maxLine)
	for lines.Scan() {
		row, err := decode(lines.Bytes())
		if err != nil {
			return err
		}
		e := event{personal: row.Personal}
		if err := json.Unmarshal([]byte(row.Leaf), &e.Leaf); err != nil {
			return err
		}
		if err := yield(e); err != nil {
			return err
		}
	}
	return lines.Err()
}

// collect reads the rows that concern the session. What it needs of the box's attestations is known only after its own rows.
func collect(dir string, id ident.ID) (*file, error) {
	f := &file{notes: map[string]event{}, boots: map[string]event{}, logs: map[string]event{}, results: map[string]int64{}}
	cards, members := map[string][]event{}, map[string][]event{}
	err := each(dir, func(e event) error {
		switch {
		case e.Session == id.String():
			f.session = append(f.session, e)
		case e.Action == "gateway.up":
			f.gateways = append(f.gateways, e)
		case e.Action == "card.add":
			cards[e.Object] = append(cards[e.Object], e)
		case e.Action == "membership.add":
			members[e.Object] = append(members[e.Object], e)
		case e.Action == "reference.add":
			f.notes[e.Fields["note_sha256"]] = e
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if err := f.find(); err != nil {
		return nil, err
	}
	f.cards, f.members = cards["card:"+f.create.Fields["card"]], members["person:"+f.create.Fields["person"]]
	last := f.session[len(f.session)-1].Seq
	return f, each(dir, func(e event) error {
		if e.Action != "box.attested" || e.Seq > last {
			return nil
		}
		if e.Object != "box:"+f.create.Fields["box"] {
			if e.Fields["result_sha256"] == f.login.Fields["result_sha256"] {
				f.elsewhere = e.Object
			}
			return nil
		}
		f.results[e.Fields["result_sha256"]] = e.Seq
		if e.Fields["certificate"] != "" {
			f.boots[e.Fields["certificate_sha256"]] = e
		}
		if e.Fields["log"] != "" {
			f.logs[e.Fields["log_sha256"]] = e
		}
		if e.Seq > f.login.Seq || e.Fields["result_sha256"] == f.login.Fields["result_sha256"] {
			f.attested = append(f.attested, e)
		}
		return nil
	})
}

// find names the rows with which a session begins.
func (f *file) find() error {
	for i, e := range f.session {
		switch {
		case e.Action == "session.create" && f.create == nil:
			f.create = &f.session[i]
		case e.Action == "login.proved":
			f.login = &f.session[i]
		}
	}
	if f.create == nil {
		return ErrNoSession
	}
	if f.login == nil {
		return ErrNoLogin
	}
	return nil
}

// check goes through the evidence from the machine to the bubble.
func (f *file) check() error {
	for _, step := range []func() error{f.checkGateway, f.checkBox, f.checkCard, f.checkGrants, f.checkLogin, f.checkResumes, f.checkBubbles} {
		if err := step(); err != nil {
			return err
		}
	}
	f.report.Person, f.report.Card, f.report.Box = f.create.Fields["person"], f.create.Fields["card"], f.create.Fields["box"]
	f.report.Method, f.report.LoggedIn = string(f.person.Method), f.login.at().UTC()
	f.report.Last = f.session[len(f.session)-1].at().UTC()
	return nil
}

// checkBubbles looks at each opening: the grant in force must name the bubble, and until then. A membership that was added after
// the grant is the one other way in: the gateway decides anew at each opening.
func (f *file) checkBubbles() error {
	var grant *granted
	for i := range f.session {
		e := &f.session[i]
		if e.Fields["grant"] != "" {
			g, err := f.openGrant(e)
			if err != nil {
				return err
			}
			grant = &g
		}
		name := e.Fields["bubble"]
		if name == "" || e.Action != "session.starting" && e.Action != "session.active" {
			continue
		}
		if grant == nil {
			return broken(Bubble, e, "%s was opened before any grant", name)
		}
		if !grant.allows(name, e.At) && !f.joined(name, grant.row, e) {
			return broken(Bubble, e, "%s was opened, and the grant of row %d names %s", name, grant.row.Seq, grant.names())
		}
		if !slices.Contains(f.report.Bubbles, name) {
			f.report.Bubbles = append(f.report.Bubbles, name)
		}
	}
	return nil
}

func (f *file) joined(bubble string, after, before *event) bool {
	return slices.ContainsFunc(f.members, func(m event) bool {
		return m.Fields["bubble"] == bubble && m.Seq > after.Seq && m.Seq < before.Seq
	})
}

func (g *granted) allows(bubble string, at int64) bool {
	for _, line := range g.claims.Bubbles {
		if line.Bubble == bubble {
			return at <= line.Until && !time.UnixMilli(at).After(g.header.Expires.Add(time.Second)) // its expiry has whole seconds
		}
	}
	return false
}

func (g *granted) names() string {
	names := make([]string, len(g.claims.Bubbles))
	for i, line := range g.claims.Bubbles {
		names[i] = line.Bubble + " until " + time.UnixMilli(line.Until).UTC().Format(time.RFC3339)
	}
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, ", ")
}
