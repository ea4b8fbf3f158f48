// SPDX-License-Identifier: Apache-2.0

package keys

import "slices"

// Kind says what an Event is.
type Kind uint8

// The kinds of events.
const (
	KeyEvent     Kind = iota + 1 // a key went down, repeats, or came up
	PointerEvent                 // the pointer moved, a button changed or the wheel turned
	ChordEvent                   // a chord the box keeps for itself; it is not for the bubble
	LostEvent                    // a device was lost: release everything that is held, as State.Release tells
	TooFastEvent                 // the same, because the device is refused: it types as no person does
)

// Buttons is the set of mouse buttons held, in the order of RFB (RFC 6143, 7.5.5).
type Buttons uint8

// The mouse buttons.
const (
	Left Buttons = 1 << iota
	Middle
	Right
)

// Chord is a combination of keys that the box answers itself.
type Chord uint8

// The chords.
const (
	NextBubble     Chord = iota + 1 // Ctrl+Alt+Right
	PreviousBubble                  // Ctrl+Alt+Left
	BackToList                      // Ctrl+Alt+Up
	Dismiss                         // Ctrl+Alt+Down: a message over the picture was read
)

// Nav is what a key means on the box's own screens, whatever the layout.
type Nav uint8

// The navigation keys. Digits are those of the upper row and of the keypad, by place: they need no shift key on any layout.
const (
	NavNone Nav = iota
	NavUp
	NavDown
	NavEnter
	NavEscape
	NavDigit // Event.Digit says which
	NavDelete
	NavLarge // F2
)

// Event is one thing a person did.
type Event struct {
	Kind  Kind
	Chord Chord // ChordEvent

	XT     uint32 // KeyEvent: the scancode, see XT
	Down   bool   // KeyEvent: pressed, or repeated while held
	Repeat bool   // KeyEvent: a repetition
	Nav    Nav    // KeyEvent: what the key means on the box's own screens, when pressed without Ctrl, Alt or Shift
	Digit  uint8  // KeyEvent: 0 to 9

	X, Y    int     // PointerEvent: where the pointer is, in pixels of the screen
	Buttons Buttons // PointerEvent: held
	Wheel   int     // PointerEvent: steps, away from the person when positive, at most maxWheel each way
}

// Bounds of what one report may carry: a hostile device gets no more than a fast hand.
const (
	maxWheel = 8
	maxHeld  = 32 // keys held at once; more are ignored
)

// State turns raw input into events and remembers what is held. It is owned by one goroutine.
type State struct {
	width, height int
	held          []key // in the order pressed
	x, y          int
	buttons       Buttons
	wheel         int
	moved         bool // a PointerEvent is due at the next report
	lost          bool // a device was lost and Release was not called since
}

// key is one key physically held.
type key struct {
	code      uint16
	forwarded bool // an Event said it is down and none that it is up
}

// NewState starts with nothing held and the pointer in the middle of a screen of this size in pixels.
func NewState(width, height int) *State {
	return &State{width: width, height: height, x: width / 2, y: height / 2}
}

// Take turns one raw event into at most one event; ok is false when there is nothing to say yet. Unknown types, codes and
// values are passed over.
func (s *State) Take(r Raw) (e Event, ok bool) {
	switch r.Type {
	case evKey:
		if bit := button(r.Code); bit != 0 {
			s.press(bit, r.Value)
			return Event{}, false
		}
		return s.takeKey(r.Code, r.Value)
	case evRel:
		s.relative(r.Code, r.Value)
	case evAbs:
		s.absolute(r.Code, r.Value)
	case evSyn:
		switch r.Code {
		case synDropped:
			s.lost = true
			return Event{Kind: LostEvent}, true
		case synTooFast:
			s.lost = true
			return Event{Kind: TooFastEvent}, true
		}
		if r.Code == synReport && s.moved {
			e = Event{Kind: PointerEvent, X: s.x, Y: s.y, Buttons: s.buttons, Wheel: s.wheel}
			s.moved, s.wheel = false, 0
			return e, true
		}
	}
	return Event{}, false
}

// Held returns the scancodes of the keys of which an event said they are down and none that they are up.
func (s *State) Held() []uint32 {
	var out []uint32
	for _, k := range s.held {
		if k.forwarded {
			xt, _ := XT(k.code)
			out = append(out, xt)
		}
	}
	return out
}

// Release returns the events that let go of everything held, last pressed first, and a pointer event without buttons if
// one was held. Keys that are still under a finger say nothing more until they are pressed anew; chords still see them.
// The agent calls it on every switch, detach, loss of link and LostEvent.
func (s *State) Release() []Event {
	var out []Event
	for i := len(s.held) - 1; i >= 0; i-- {
		if k := &s.held[i]; k.forwarded {
			k.forwarded = false
			xt, _ := XT(k.code)
			out = append(out, Event{Kind: KeyEvent, XT: xt})
		}
	}
	if s.buttons != 0 {
		s.buttons = 0
		out = append(out, Event{Kind: PointerEvent, X: s.x, Y: s.y})
	}
	s.moved, s.wheel = false, 0
	if s.lost { // the device will never say that its keys came up
		s.held, s.lost = s.held[:0], false
	}
	return out
}

func (s *State) takeKey(code uint16, value int32) (Event, bool) {
	i := slices.IndexFunc(s.held, func(k key) bool { return k.code == code })
	xt, known := XT(code)
	switch {
	case !known:
		return Event{}, false
	case value == 0:
		if i < 0 {
			return Event{}, false
		}
		forwarded := s.held[i].forwarded
		s.held = slices.Delete(s.held, i, i+1)
		return Event{Kind: KeyEvent, XT: xt}, forwarded
	case value == 1 && i < 0:
		if len(s.held) == maxHeld {
			return Event{}, false
		}
		if chord := s.chord(code); chord != 0 {
			s.held = append(s.held, key{code: code})
			return Event{Kind: ChordEvent, Chord: chord}, true
		}
		s.held = append(s.held, key{code: code, forwarded: true})
	case value == 2 && i >= 0 && s.held[i].forwarded:
		// a server of desktops does not repeat a held key: the repetition is sent as another press
	default:
		return Event{}, false
	}
	e := Event{Kind: KeyEvent, XT: xt, Down: true, Repeat: value == 2}
	if !s.modified() {
		e.Nav, e.Digit = navigation(code)
	}
	return e, true
}

// chord says which chord the press of code completes.
func (s *State) chord(code uint16) Chord {
	if !(s.down(codeLeftCtrl) || s.down(codeRightCtrl)) || !s.down(codeLeftAlt) || s.down(codeRightAlt) {
		return 0
	}
	switch code {
	case codeRight:
		return NextBubble
	case codeLeft:
		return PreviousBubble
	case codeUp:
		return BackToList
	case codeDown:
		return Dismiss
	}
	return 0
}

func (s *State) down(code uint16) bool {
	return slices.ContainsFunc(s.held, func(k key) bool { return k.code == code })
}

// modified says whether a key that changes the meaning of others is held.
func (s *State) modified() bool {
	return slices.ContainsFunc(s.held, func(k key) bool {
		switch k.code {
		case codeLeftCtrl, codeRightCtrl, codeLeftAlt, codeRightAlt, codeLeftShift, codeRightShift, codeSuperL, codeSuper:
			return true
		}
		return false
	})
}

func navigation(code uint16) (Nav, uint8) {
	switch code {
	case codeUp:
		return NavUp, 0
	case codeDown:
		return NavDown, 0
	case codeEnter, codeKeypadEnter:
		return NavEnter, 0
	case codeEscape:
		return NavEscape, 0
	case codeDelete, codeKeypadPoint:
		return NavDelete, 0
	case codeF2:
		return NavLarge, 0
	case code0:
		return NavDigit, 0
	}
	if code >= code1 && code < code0 {
		return NavDigit, uint8(code-code1) + 1
	}
	if i := slices.Index([]uint16{82, 79, 80, 81, 75, 76, 77, 71, 72, 73}, code); i >= 0 { // keypad 0 to 9
		return NavDigit, uint8(i)
	}
	return NavNone, 0
}

func button(code uint16) Buttons {
	switch code {
	case btnLeft, btnTouch:
		return Left
	case btnMiddle:
		return Middle
	case btnRight:
		return Right
	}
	return 0
}

func (s *State) press(bit Buttons, value int32) {
	before := s.buttons
	switch value {
	case 0:
		s.buttons &^= bit
	case 1:
		s.buttons |= bit
	}
	s.moved = s.moved || s.buttons != before
}

func (s *State) relative(code uint16, value int32) {
	value = min(max(value, -AbsMax), AbsMax) // so that no sum overflows
	switch code {
	case relX:
		s.x = min(max(s.x+int(value), 0), s.width-1)
	case relY:
		s.y = min(max(s.y+int(value), 0), s.height-1)
	case relWheel:
		s.wheel = min(max(s.wheel+int(value), -maxWheel), maxWheel)
	default:
		return
	}
	s.moved = true
}

func (s *State) absolute(code uint16, value int32) {
	value = min(max(value, 0), AbsMax)
	switch code {
	case absX:
		s.x = place(value, s.width)
	case absY:
		s.y = place(value, s.height)
	default:
		return
	}
	s.moved = true
}

// place maps 0..AbsMax to 0..size-1, rounded to the nearest pixel.
func place(value int32, size int) int { return (int(value)*(size-1) + AbsMax/2) / AbsMax }
