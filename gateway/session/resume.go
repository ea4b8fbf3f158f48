// SPDX-License-Identifier: Apache-2.0

package session

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"sdbox/gateway/store"
	"sdbox/internal/ident"
	"sdbox/internal/refusal"
	"sdbox/internal/wire"
)

// comeBack is how long after its line broke, or after this gateway returned, a session may come back without a finger. The box
// counts by itself from the moment it noticed, and gives up by then too.
const comeBack = 30 * time.Second

// restarted is the reason in the row of a session whose gateway was gone.
const restarted = "gateway restarted"

// adopt takes over the sessions that an earlier run of this gateway left: no box holds them any more, the desktops went on. Those
// that were in use may come back at once.
func (s *Server) adopt(ctx context.Context) error {
	rows, err := s.conf.Store.Sessions(ctx, store.SessionFilter{Gateway: s.conf.Name})
	if err != nil {
		return err
	}
	for _, ses := range rows {
		c := store.SessionChange{ID: ses.ID, Epoch: ses.Epoch, State: Suspended, Deadline: time.Now().Add(suspendedLife).UnixMilli(), Reason: restarted}
		lost := time.Now()
		back := lost.Add(comeBack)
		switch ses.State {
		case Requested, Ending:
			c.State, c.Deadline = Ended, 0
		case Suspended: // it keeps the time at which it became so
			c.Deadline, c.Reason, lost, back = ses.Deadline, ses.Reason, time.Time{}, time.Time{}
			if ses.Reason == string(LineLost) || ses.Reason == restarted {
				lost = time.UnixMilli(ses.Changed)
				back = lost.Add(comeBack)
			}
		}
		if ses.State != Suspended {
			if err := s.conf.Store.ChangeSession(ctx, s.actor(), c); err != nil {
				return err
			}
		}
		if c.State == Ended {
			continue
		}
		person, err := s.conf.Registry.Person(ctx, ses.Person)
		if err != nil {
			return err
		}
		s.publish(Live{ID: ses.ID, Person: person.Name, PersonID: person.ID, Box: ses.Box, State: Suspended, Since: time.UnixMilli(ses.Started), Lost: lost}, nil, c, back)
	}
	return nil
}

// claim makes a line the owner of a session that waits for its box, so that whoever ends it from now on asks the line. It returns
// what to do if the line does not keep it; nil says that no such session waits.
func (s *Server) claim(id ident.ID, l *boxLine, now time.Time) (giveBack func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.entries[id]
	if e == nil || e.line != nil || e.live.Box != l.serial || !now.Before(e.back) {
		return nil
	}
	mine := &entry{live: e.live, line: l, row: e.row, back: e.back}
	s.entries[id] = mine
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.entries[id] == mine {
			s.entries[id] = e
		}
	}
}

// resume answers a box that lost its line in a session: the box has attested anew, the same card is in it and says so for this very
// session, and the person is not asked for a finger again. Everything else is decided anew. A box that is refused reads the card
// as if it had just come.
func (l *boxLine) resume(ctx context.Context, m *wire.Resume) error {
	box, ok := l.srv.conf.Box(l.addr)
	if !ok {
		return fmt.Errorf("resume: the attestation result of %s has ended", l.serial)
	}
	h, err := l.identify(ctx, &wire.CardIn{Certificate: m.Certificate, Nonce: m.Nonce, Presence: m.Presence}, m.Session[:], box)
	var s *session
	if err == nil {
		s, err = l.takeBack(ctx, m, h)
	}
	var d *denial
	if errors.As(err, &d) {
		return l.refuse(ctx, m, "", d.why, d.cause)
	}
	if err != nil {
		return err
	}
	s.tunnelKey, s.transcript = box.TunnelKey, [32]byte(m.Transcript)
	l.s, l.strays = s, 0
	l.cardOf.clear()
	list, err := l.decideAll(ctx)
	if errors.As(err, &d) {
		if err := l.refuse(ctx, m, "", d.why, d.cause); err != nil {
			return err
		}
		return l.stopped(ctx, stop{id: s.id, by: l.srv.actor(), why: d.why})
	}
	if err != nil {
		return err
	}
	grant, err := l.grant(time.Now())
	if err != nil {
		return err
	}
	if err := l.happen(ctx, CameBack, change{grant: grant.Statement, nonce: m.Nonce, proof: m.Presence}); err != nil {
		return err
	}
	if err := l.sendList(ctx, list, grant); err != nil {
		return err
	}
	if err := l.tellWatched(); err != nil {
		return err
	}
	return l.lookAhead(ctx) // another run of the gateway may have had the session: nothing is known of the desktops
}

// takeBack finds the session that a card's holder names and raises its epoch: whoever held it before holds nothing any more. A
// *denial says that there is no such session, or that it is not this card's, this box's or of this login.
func (l *boxLine) takeBack(ctx context.Context, m *wire.Resume, h holder) (s *session, err error) {
	giveBack := l.srv.claim(m.Session, l, time.Now())
	if giveBack == nil {
		return nil, deny(refusal.LinkLost, "no session waits for this box, or its time is over")
	}
	defer func() {
		if err != nil {
			giveBack()
		}
	}()
	row, err := l.srv.conf.Store.Session(ctx, m.Session)
	if err != nil {
		return nil, err
	}
	transcript, err := l.srv.transcriptOf(ctx, m.Session)
	switch {
	case err != nil:
		return nil, err
	case row.Card != h.card.GUID || row.Person != h.person.ID:
		return nil, deny(refusal.LinkLost, "the session is another card's")
	case row.State != Suspended || row.Box != l.serial || uint64(row.Epoch) != m.Epoch:
		return nil, deny(refusal.LinkLost, fmt.Sprintf("the session is %s at %s in epoch %d, not %d", row.State, row.Box, row.Epoch, m.Epoch))
	case len(transcript) != 32 || !bytes.Equal(transcript, m.Transcript):
		return nil, deny(refusal.LinkLost, "the session began with another login")
	}
	row, err = l.srv.conf.Store.TakeSession(ctx, l.actor(), m.Session, l.srv.conf.Name, row.Epoch)
	if errors.Is(err, store.ErrConflict) {
		return nil, deny(refusal.LinkLost, err.Error())
	}
	if err != nil {
		return nil, err
	}
	s = newSession(m.Session, h, Suspended, row.Epoch, time.UnixMilli(row.Started))
	s.order, err = l.presented(ctx, m, h)
	return s, err
}

// presented audits the proof by which a session came back, and takes a new order: bubbles refuse what the owner before still sends.
func (l *boxLine) presented(ctx context.Context, m *wire.Resume, h holder) (uint64, error) {
	e := store.Entry{Actor: l.actor(), Action: "login.resumed", Object: "person:" + h.person.ID.String(), Session: m.Session, Fields: map[string]string{
		"card": h.card.GUID.String(), "nonce": hex.EncodeToString(m.Nonce), "presence": hex.EncodeToString(m.Presence),
		"transcript_sha256": hex.EncodeToString(m.Transcript), "certificate_sha256": hex.EncodeToString(h.hash[:])}}
	if err := l.srv.conf.Store.Change(ctx, e, func(*store.Tx) error { return nil }); err != nil {
		return 0, err
	}
	order, err := l.srv.conf.Store.Last(ctx)
	return uint64(order), err
}

// transcriptOf is the hash of the transcript a session's login was proved by, as the audit log has it; empty if it has none.
func (s *Server) transcriptOf(ctx context.Context, id ident.ID) ([]byte, error) {
	rows, err := s.conf.Store.Audit(ctx, store.AuditFilter{Session: id, Limit: 200})
	if err != nil {
		return nil, err
	}
	for _, r := range rows {
		var leaf store.Leaf
		if err := json.Unmarshal(r.Leaf, &leaf); err != nil {
			return nil, fmt.Errorf("audit row %d: %w", r.Seq, err)
		}
		if leaf.Action == "login.proved" {
			return hex.DecodeString(leaf.Fields["transcript_sha256"])
		}
	}
	return nil, nil
}
