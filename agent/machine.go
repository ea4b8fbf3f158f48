// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"bytes"
	"crypto/tls"
	"errors"
	"net"
	"slices"

	"sdbox/agent/boot"
	"sdbox/agent/kiosk"
	"sdbox/internal/refusal"
	"sdbox/internal/wire"
)

// onMachine takes what PID 1 says of the machine.
func (a *Agent) onMachine(e boot.Event) error {
	switch {
	case e.Network != nil:
		return a.onNetwork(*e.Network)
	case e.Site != nil:
		return a.onSite(*e.Site)
	case e.Trouble != nil:
		return a.onTrouble(*e.Trouble)
	case e.System != nil:
		a.onSystem(*e.System)
	case e.Update != nil:
		return a.onUpdate(*e.Update)
	}
	return nil
}

// onNetwork says what is missing of the network while the centre is waited for, and has the link try again when nothing is.
func (a *Agent) onNetwork(n boot.Network) error {
	a.log.Info("network", "state", string(n.State), "address", n.Address)
	a.network = n.State
	if n.State == boot.Up {
		a.route.open()
	}
	switch code := missing(n.State); {
	case a.state != Connecting:
	case code != "" && a.said.Code != code:
		a.say(refusal.New(code), "")
		return a.sayOutage()
	case code == "" && ofNetwork(a.said.Code):
		a.said = refusal.Refusal{}
		return a.sayOutage()
	}
	return nil
}

// missing is the code of a network that is not there; "" while it is, or may come yet.
func missing(s boot.NetworkState) refusal.Code {
	switch s {
	case boot.NoAdapter:
		return refusal.NoAdapter
	case boot.NoCable:
		return refusal.NoCable
	case boot.NoAddress:
		return refusal.NoAddress
	}
	return ""
}

func ofNetwork(c refusal.Code) bool {
	return c == refusal.NoAdapter || c == refusal.NoCable || c == refusal.NoAddress
}

// waitedFor says whether the code is one that is read while the centre is waited for.
func waitedFor(c refusal.Code) bool {
	return ofNetwork(c) || c == refusal.CentreSilent || c == refusal.NoName || c == refusal.Impostor || c == refusal.SignIn
}

// whyDown is the code of a link that could not come up: what is missing of the network, or who answers in place of the centre. It is ""
// as long as the network may come yet.
func (a *Agent) whyDown(err error) refusal.Code {
	var name *net.DNSError
	var record tls.RecordHeaderError
	var certificate *tls.CertificateVerificationError
	switch {
	case a.network != "" && a.network != boot.Up:
		return missing(a.network)
	case errors.Is(err, errChip):
		return refusal.NoChip
	case errors.As(err, &certificate):
		return refusal.Impostor
	case errors.As(err, &record) && bytes.HasPrefix(record.RecordHeader[:], []byte("HTTP/")):
		return refusal.SignIn
	case errors.As(err, &name):
		return refusal.NoName
	}
	return refusal.CentreSilent
}

// onSite takes the hints of the configuration slot, which was checked.
func (a *Agent) onSite(s boot.Site) error {
	a.route.hint(s.Gateways)
	if s.Layout != "" {
		a.cfg.Layout = s.Layout
	}
	if s.Language == "" || a.up != nil { // the centre knows better
		return nil
	}
	a.face.site, a.face.around.Language = s.Language, s.Language
	if a.face.view == nil || a.face.still {
		return nil
	}
	return a.face.show(a.face.view)
}

// onTrouble says that something was plugged in which the box does not take, for as long as it is in.
func (a *Agent) onTrouble(t boot.Trouble) error {
	if t.Over {
		return a.endTrouble(t.Refusal)
	}
	return a.beginTrouble(t.Refusal)
}

// beginTrouble says something over every screen until endTrouble, and tells the centre.
func (a *Agent) beginTrouble(r refusal.Refusal) error {
	a.log.Info("refused", "code", r.Error())
	if err := a.report(r); err != nil {
		return err
	}
	return a.face.tell(note{Note: kiosk.Note{Refusal: &r}, stands: true})
}

func (a *Agent) endTrouble(r refusal.Refusal) error {
	a.log.Info("over", "code", r.Error())
	return a.face.withdraw(r)
}

// maxOwed bounds what is kept to be told when the centre answers again.
const maxOwed = 8

// report tells the centre by which code something was read here, now or when it answers.
func (a *Agent) report(r refusal.Refusal) error {
	if a.up == nil {
		if len(a.owed) < maxOwed && !slices.ContainsFunc(a.owed, func(o refusal.Refusal) bool { return o.Error() == r.Error() }) {
			a.owed = append(a.owed, r)
		}
		return nil
	}
	e := &wire.Event{Refusal: r}
	if a.visit != nil {
		e.Session = a.visit.session()
	}
	return a.send(e)
}

// payOwed tells the centre what could not be told.
func (a *Agent) payOwed() error {
	var err error
	for _, r := range a.owed {
		err = errors.Join(err, a.report(r))
	}
	a.owed = nil
	return err
}
