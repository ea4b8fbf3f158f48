// SPDX-License-Identifier: Apache-2.0

package session

import (
	"context"
	"errors"
	"time"

	"sdbox/gateway/registry"
	"sdbox/gateway/store"
	"sdbox/internal/bubble"
	"sdbox/internal/refusal"
	"sdbox/internal/wire"
)

// finishLife is how long a bubble may take to end a desktop: its programs are asked first.
const finishLife = 30 * time.Second

// finished is what became of ending a desktop.
type finished struct {
	session *session
	project registry.Project
	err     error
}

// endDesktop ends the person's own desktop in a bubble, because she said so twice at her box. It is written down before it is done.
func (l *boxLine) endDesktop(ctx context.Context, m *wire.EndDesktop) error {
	s := l.s
	if m.Session != s.id {
		return l.stray(m)
	}
	project, _, err := l.mayOpen(ctx, m.Bubble)
	var d *denial
	if errors.As(err, &d) {
		return l.refuse(ctx, m, m.Bubble, d.why, d.cause)
	}
	if err != nil {
		return err
	}
	name := project.Bubble.Name
	e := store.Entry{Actor: l.actor(), Action: "desktop.end", Object: "bubble:" + name, Session: s.id,
		Fields: map[string]string{"person": s.person.ID.String(), "account": project.Membership.Account}}
	if err := l.srv.conf.Store.Change(ctx, e, func(*store.Tx) error { return nil }); err != nil {
		return err
	}
	if k := s.desks[name]; k != nil {
		delete(s.desks, name)
		l.closeLater(k.desktop)
	}
	if b := s.warm[name]; b != nil {
		delete(s.warm, name)
		b.Close()
	}
	token, err := bubble.NewToken(l.srv.conf.Signer, l.srv.conf.Domain.Bubble(name), bubble.Claims{Account: project.Membership.Account, Session: s.id,
		Epoch: s.order, Purpose: bubble.PurposeEnd, GatewayCertificate: bubble.CertificateHash(l.srv.conf.Identity.Leaf)})
	if err != nil {
		return err
	}
	l.running.Go(func() {
		limited, cancel := context.WithTimeout(ctx, finishLife)
		defer cancel()
		f := finished{session: s, project: project, err: l.finish(limited, project, token)}
		select {
		case l.finished <- f:
		case <-ctx.Done():
		}
	})
	return nil
}

func (l *boxLine) finish(ctx context.Context, p registry.Project, token []byte) error {
	conn, err := l.srv.conf.Dial(ctx, p.Bubble)
	if err != nil {
		return err
	}
	return errors.Join(conn.End(ctx, token), conn.Close())
}

// finishedDesk answers with the list as it is now.
func (l *boxLine) finishedDesk(ctx context.Context, f finished) error {
	s := l.s
	if s == nil || s != f.session {
		return nil
	}
	name := f.project.Bubble.Name
	if f.err != nil {
		why := refusal.New(refusal.BubbleDown, "bubble", f.project.Bubble.Title, "since", refusal.Moment(time.Now()))
		return l.refuse(ctx, &wire.EndDesktop{}, name, why, f.err.Error())
	}
	s.up[name], s.told = false, nil // the list answers, whatever the box had
	return l.again(ctx)
}
