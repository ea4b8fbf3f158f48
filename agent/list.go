// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"slices"

	"sdbox/agent/keys"
	"sdbox/agent/kiosk"
	"sdbox/internal/refusal"
	"sdbox/internal/wire"
)

// takeBubbles keeps the selection on the bubble it was on.
func (v *visit) takeBubbles(m *wire.Bubbles) {
	var name string
	if v.selected < len(v.bubbles) {
		name = v.bubbles[v.selected].Name
	}
	v.bubbles = m.List
	v.selected = max(0, slices.IndexFunc(v.bubbles, func(b wire.Bubble) bool { return b.Name == name }))
	if name == "" {
		v.selected = max(0, slices.IndexFunc(v.bubbles, func(b wire.Bubble) bool { return b.State != wire.Refuses }))
	}
	if m.Grant.Statement != nil {
		v.takeGrant(&m.Grant)
	}
}

// renewList takes the list as it is now. What a person is doing goes on: a choice, a question about a desktop that still runs.
func (a *Agent) renewList(m *wire.Bubbles) error {
	v := a.visit
	var asked string
	if a.state == Asking {
		asked = v.bubbles[v.selected].Name
	}
	v.takeBubbles(m)
	switch {
	case asked != "" && (len(v.bubbles) == 0 || v.bubbles[v.selected].Name != asked || v.bubbles[v.selected].State != wire.Open):
		return a.fire(Back)
	case a.state == List:
		list, _ := a.face.view.(kiosk.List)
		return a.showList(list.Refusal)
	}
	return nil
}

// noteRefused writes the codes that are new in a list into the log: they are about to be on the screen.
func (a *Agent) noteRefused(list []wire.Bubble) {
	for _, b := range list {
		if b.Refusal == nil || slices.ContainsFunc(a.visit.bubbles, func(o wire.Bubble) bool {
			return o.Refusal != nil && o.Refusal.Error() == b.Refusal.Error()
		}) {
			continue
		}
		a.log.Info("project refused", "bubble", b.Name, "code", b.Refusal.Error())
	}
}

// runs notes in the list that the desktop of the current bubble runs.
func (v *visit) runs() {
	if i := slices.IndexFunc(v.bubbles, func(b wire.Bubble) bool { return b.Name == v.current }); i >= 0 {
		v.bubbles[i].State = wire.Open
	}
}

// neighbour is the next bubble that may be opened, step +1 or -1 away from the current one.
func (v *visit) neighbour(step int) (wire.Bubble, bool) {
	at := slices.IndexFunc(v.bubbles, func(b wire.Bubble) bool { return b.Name == v.current })
	for i := 1; at >= 0 && i < len(v.bubbles); i++ {
		n := len(v.bubbles)
		if b := v.bubbles[((at+step*i)%n+n)%n]; b.State != wire.Refuses {
			return b, true
		}
	}
	return wire.Bubble{}, false
}

// open asks for a bubble by its place in the list.
func (a *Agent) open(name string) error {
	v := a.visit
	i := slices.IndexFunc(v.bubbles, func(b wire.Bubble) bool { return b.Name == name })
	if i < 0 {
		return nil
	}
	v.selected = i
	if r := v.bubbles[i].Refusal; v.bubbles[i].State == wire.Refuses && r != nil {
		a.say(*r, "")
		return a.showList(r)
	}
	return a.fire(Picked)
}

func (a *Agent) onChoice(e keys.Event) error {
	v := a.visit
	n := len(v.bubbles)
	if n == 0 {
		return nil
	}
	switch {
	case e.Kind == keys.PointerEvent:
		if i, hit := a.face.kiosk.Hit(e.X, e.Y); hit && i < n && e.Buttons&keys.Left != 0 {
			return a.open(v.bubbles[i].Name)
		}
		return nil
	case !e.Down:
		return nil
	case e.Nav == keys.NavDelete && !e.Repeat:
		if v.bubbles[v.selected].State != wire.Open {
			return nil
		}
		return a.fire(EndAsked)
	case e.Nav == keys.NavUp:
		v.selected = (v.selected + n - 1) % n
	case e.Nav == keys.NavDown:
		v.selected = (v.selected + 1) % n
	case e.Nav == keys.NavDigit && e.Digit >= 1 && int(e.Digit) <= n:
		return a.open(v.bubbles[e.Digit-1].Name)
	case e.Nav == keys.NavEnter:
		return a.open(v.bubbles[v.selected].Name)
	default:
		return nil
	}
	return a.showList(nil)
}

func (a *Agent) showList(why *refusal.Refusal) error {
	v := a.visit
	return a.face.show(kiosk.List{Name: v.person.Name, Bubbles: v.bubbles, Selected: v.selected, Refusal: why})
}
