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
	case slow == (a.face.around.Slow.Code != ""):
		return nil
	case !slow:
		a.log.Info("UDP carries again")
		return a.face.slow(refusal.Refusal{})
	}
	r := refusal.New(refusal.SlowMode)
	a.log.Warn("slow mode: UDP is blocked", "code", r.Error())
	if err := a.face.slow(r); err != nil {
		return err
	}
	var session ident.ID
	if a.visit != nil {
		session = a.visit.session()
	}
	return a.send(&wire.Event{Session: session, Refusal: r})
}

// slow puts slow mode into the bar and under the box's own screens, or takes it away.
func (f *face) slow(r refusal.Refusal) error {
	f.around.Slow = r
	switch {
	case f.still:
		return nil
	case f.view != nil:
		return f.show(f.view)
	}
	return f.viewer.Bar()
}
