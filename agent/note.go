// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"fmt"
	"image"
	"slices"
	"time"

	"sdbox/agent/keys"
	"sdbox/agent/kiosk"
	"sdbox/internal/refusal"
	"sdbox/internal/wire"
)

// How long a note stands if nobody says that it was read, and how many may wait behind it.
const (
	messageLife = time.Minute
	warningLife = 20 * time.Second
	maxNotes    = 8
)

// note is a message over whatever is shown.
type note struct {
	kiosk.Note
	life   time.Duration
	until  time.Time       // set when it is the first
	at     image.Rectangle // where it stands
	stands bool            // until it is withdrawn, or read; behind all that do not
}

// onNotice shows what the gateway has to say. That a desktop takes time to start belongs to the screen that waits for it.
func (a *Agent) onNotice(m *wire.Notice) error {
	if !slices.Contains(loggedIn(), a.state) {
		return nil
	}
	a.log.Info("notice from the centre", "text", m.Text, "refusal", m.Refusal)
	if m.Refusal != nil && m.Refusal.Code == refusal.BubbleStarting {
		view, opening := a.face.view.(kiosk.Opening)
		if a.state != Opening || !opening || a.face.still {
			return nil
		}
		view.Refusal = m.Refusal
		return a.face.show(view)
	}
	n := note{Note: kiosk.Note{Text: m.Text, Refusal: m.Refusal}, life: warningLife}
	if m.Refusal == nil {
		n.At, n.life = time.UnixMilli(m.At), messageLife
	}
	return a.face.tell(n)
}

// onNote says whether an event was the person's word that she has read the note: a chord that no program uses, or a click on it.
func (a *Agent) onNote(e keys.Event) (read bool, err error) {
	f := a.face
	if e.Kind == keys.ChordEvent && e.Chord == keys.Dismiss {
		return true, f.dismiss()
	}
	if len(f.notes) > 0 && e.Kind == keys.PointerEvent && e.Buttons&keys.Left != 0 && (image.Point{X: e.X, Y: e.Y}).In(f.notes[0].at) && !f.still {
		return true, f.dismiss()
	}
	return false, nil
}

// tell puts a note behind those that stand; the first is shown. Too many at once are a fault of the other side: the last is dropped.
func (f *face) tell(n note) error {
	if len(f.notes) == maxNotes {
		return nil
	}
	at := len(f.notes)
	if first := slices.IndexFunc(f.notes, func(o note) bool { return o.stands }); first >= 0 && !n.stands {
		at = first
	}
	f.notes = slices.Insert(f.notes, at, n)
	if at > 0 {
		return nil
	}
	return f.showNext()
}

// withdraw takes a note away that stood for something that is over.
func (f *face) withdraw(r refusal.Refusal) error {
	at := slices.IndexFunc(f.notes, func(n note) bool { return n.stands && n.Refusal.Error() == r.Error() })
	if at < 0 {
		return nil
	}
	f.notes = slices.Delete(f.notes, at, at+1)
	if at > 0 {
		return nil
	}
	return f.showNext()
}

// showNote shows the first note over what is there.
func (f *face) showNote() error {
	switch {
	case f.still:
		return nil // uncover does
	case f.view != nil:
		return f.show(f.view)
	}
	return f.placeNote()
}

// placeNote draws the first note over the picture, which is kept from painting there.
func (f *face) placeNote() error {
	if len(f.notes) == 0 || f.still {
		return nil
	}
	at := f.drawNote()
	if err := f.viewer.Mask(at); err != nil {
		return err
	}
	if err := f.screen.Flush(at); err != nil {
		return fmt.Errorf("show note: %w", err)
	}
	return nil
}

func (f *face) drawNote() image.Rectangle {
	n := &f.notes[0]
	if n.until.IsZero() && !n.stands {
		n.until = f.around.Now.Add(n.life)
	}
	n.at = f.kiosk.Note(f.screen.Image(), n.Note, f.around)
	return n.at
}

// dismiss takes the first note away and shows the next.
func (f *face) dismiss() error {
	if len(f.notes) == 0 {
		return nil
	}
	f.notes = f.notes[1:]
	return f.showNext()
}

// showNext shows the first note where there was another.
func (f *face) showNext() error {
	if f.view == nil && !f.still {
		if err := f.viewer.Mask(image.Rectangle{}); err != nil {
			return err
		}
	}
	return f.showNote()
}

// expire takes away a note that has stood long enough.
func (f *face) expire(now time.Time) error {
	if len(f.notes) == 0 || f.notes[0].until.IsZero() || now.Before(f.notes[0].until) {
		return nil
	}
	return f.dismiss()
}

// enlarge turns larger text on the box's own screens on and off.
func (f *face) enlarge() error {
	f.around.Large = !f.around.Large
	if f.view == nil || f.still {
		return nil
	}
	return f.show(f.view)
}
