// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"errors"
	"image"

	"sdbox/agent/keys"
	"sdbox/agent/kiosk"
	"sdbox/agent/viewer"
	"sdbox/internal/refusal"
)

func (a *Agent) releaseKeys() error {
	for _, e := range a.keys.Release() {
		if err := a.forward(e); err != nil {
			return err
		}
	}
	return nil
}

// light has the keyboards show what the bubble on the screen wants lit, and nothing without one.
func (a *Agent) light() {
	lit := keys.Lights(0)
	if a.state == Desktop {
		lit = a.visit.lights
	}
	a.cfg.Keys.Light(lit)
}

// onInput takes raw input. Where the pointer is gets drawn when all that has come is taken: a fast mouse moves it more often than
// anybody sees.
func (a *Agent) onInput(r keys.Raw) error {
	if e, ok := a.keys.Take(r); ok {
		if err := a.onEvent(e); err != nil {
			return err
		}
	}
	if len(a.inputs) > 0 {
		return nil
	}
	return a.face.point()
}

// onEvent turns an event into what it means where the box is now: keys of a desktop, or a choice on the box's own screens.
func (a *Agent) onEvent(e keys.Event) error {
	switch e.Kind {
	case keys.LostEvent:
		return a.releaseKeys()
	case keys.TooFastEvent:
		return errors.Join(a.releaseKeys(), a.refuseKeyboard())
	case keys.PointerEvent:
		a.face.mouse = &image.Point{X: e.X, Y: e.Y}
	}
	if read, err := a.onNote(e); read {
		return err
	}
	if a.face.still { // nobody types into a picture that has stopped
		return nil
	}
	if e.Kind == keys.ChordEvent {
		return a.onChord(e.Chord)
	}
	if a.state != Desktop && e.Kind == keys.KeyEvent && e.Down && !e.Repeat && e.Nav == keys.NavLarge {
		return a.face.enlarge()
	}
	switch a.state {
	case Desktop:
		return a.forward(e)
	case List:
		return a.onChoice(e)
	case Asking:
		switch {
		case e.Kind != keys.KeyEvent || !e.Down || e.Repeat:
			return nil
		case e.Nav == keys.NavEnter:
			return a.fire(Confirmed)
		case e.Nav == keys.NavEscape:
			return a.fire(Back)
		}
	case Finger:
		if e.Kind == keys.KeyEvent && e.Down && e.Nav == keys.NavDigit && (e.Digit == 1 || e.Digit == 2) {
			a.visit.second = e.Digit == 2
			return a.face.show(kiosk.Finger{Name: a.visit.person.Name, Second: a.visit.second})
		}
	case Elsewhere:
		if e.Kind == keys.KeyEvent && e.Down && !e.Repeat && e.Nav == keys.NavEnter {
			return a.fire(Brought)
		}
	}
	return nil
}

// refuseKeyboard says that a keyboard is not listened to any more.
func (a *Agent) refuseKeyboard() error {
	r := refusal.New(refusal.TypedTooFast)
	a.log.Info("refused", "code", r.Error())
	return errors.Join(a.face.tell(note{Note: kiosk.Note{Refusal: &r}, life: warningLife}), a.report(r))
}

func (a *Agent) onChord(c keys.Chord) error {
	if a.visit == nil || a.visit.current == "" {
		return nil
	}
	step := 1
	switch c {
	case keys.BackToList:
		return a.fire(Back)
	case keys.PreviousBubble:
		step = -1
	}
	if b, found := a.visit.neighbour(step); found {
		return a.open(b.Name)
	}
	return nil
}

// forward sends one event to the bubble, in the bubble's own coordinates.
func (a *Agent) forward(e keys.Event) error {
	v := a.visit
	if v == nil || v.media == nil || v.current == "" {
		return nil
	}
	input, ok := viewer.Input(a.face.area(), e)
	if !ok {
		return nil
	}
	if e.Repeat && v.media.Waiting() > maxAhead {
		return nil
	}
	input.Stream = v.stream
	if err := v.media.SendInput(input); err != nil { // the link is slow or gone: what a person types now must not come down minutes later
		a.log.Debug("input dropped", "err", err)
	}
	return nil
}
