// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"sdbox/internal/ident"
	"sdbox/internal/refusal"
	"sdbox/internal/tunnel"
	"sdbox/internal/wire"
)

// noteBearer says in the bar, in the log and to the centre that the tunnel goes by TLS because UDP does not pass (N08), and takes
// it from the bar when UDP is back. One suffix names one such time.
func (a *Agent) noteBearer() error {
	slow := a.up != nil && a.up.tunnel != nil && a.up.tunnel.Bearer() == tunnel.TLS
	switch {
	case slow == (a.face.bar.Slow != ""):
		return nil
	case !slow:
		a.log.Info("UDP carries again")
		return a.face.slow("")
	}
	r := refusal.New(refusal.SlowMode)
	a.log.Warn("slow mode: UDP is blocked", "code", r.Error())
	if err := a.face.slow(r.Error()); err != nil {
		return err
	}
	var session ident.ID
	if a.visit != nil {
		session = a.visit.session()
	}
	return a.send(&wire.Event{Session: session, Refusal: r})
}

// slow puts the code of slow mode into the bar, or takes it away.
func (f *face) slow(code string) error {
	f.bar.Slow = code
	if f.still || f.view != nil {
		return nil
	}
	return f.viewer.Bar()
}
