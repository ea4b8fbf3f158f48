// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"fmt"
	"testing"
	"time"

	"sdbox/agent/keys"
	"sdbox/agent/kiosk"
	"sdbox/agent/screen"
	"sdbox/internal/ident"
	"sdbox/internal/refusal"
	"sdbox/internal/wire"

	"github.com/stretchr/testify/require"
)

// The lights' colours, as the kiosk draws them.
const blue, amber, amberGround = 0x1b52b0, 0x8a4b00, 0xfff1d6

func not(is func(*screen.Image) bool) func(*screen.Image) bool {
	return func(m *screen.Image) bool { return !is(m) }
}

func both(a, b func(*screen.Image) bool) func(*screen.Image) bool {
	return func(m *screen.Image) bool { return a(m) && b(m) }
}

func (b *bench) chord(code uint16) {
	for _, raw := range append(append(keys.Key(29, 1), keys.Key(56, 1)...), keys.Key(code, 1)...) {
		b.agent.inputs <- raw
	}
	for _, raw := range append(append(keys.Key(code, 0), keys.Key(56, 0)...), keys.Key(29, 0)...) {
		b.agent.inputs <- raw
	}
}

func TestMessageStandsOverThePictureUntilItIsRead(t *testing.T) {
	b := newBench(t)
	b.insert()
	b.login()
	b.press(28)
	at := expect[*wire.Attach](b.centre)
	b.show(at, 0x123456)
	b.seen("epi", filled(0x123456))
	b.say(&wire.Notice{Text: "The centre closes at 20:00.", At: time.Now().UnixMilli()})
	b.say(&wire.Notice{Refusal: &refusal.Refusal{Code: refusal.ProjectEnding, Suffix: "7K2", Params: map[string]string{"project": "Epidemiology", "minutes": "15"}}})
	b.seen("the message over the picture", both(anywhere(blue), filled(0x123456)))
	b.show(at, 0x345678) // the picture goes on around it
	b.seen("the message over the next picture", both(anywhere(blue), filled(0x345678)))
	b.chord(108) // Ctrl+Alt+Down
	b.seen("the warning after it", both(both(anywhere(amber), not(anywhere(blue))), filled(0x345678)))
	for _, raw := range append(keys.Move(keys.AbsMax/2, keys.AbsMax/10), keys.Button(keys.Left, true)...) { // a click on it
		b.agent.inputs <- raw
	}
	b.seen("nothing but the picture", both(not(anywhere(amber)), filled(0x345678)))
	b.say(&wire.Notice{Text: "One more.", At: time.Now().UnixMilli()})
	b.seen("it", anywhere(blue))
	b.chord(106) // Ctrl+Alt+Right: it stands over the next bubble, too
	next := expect[*wire.Attach](b.centre)
	b.seen("it over the words that the bubble opens", anywhere(blue))
	b.show(next, 0x0a0b0c)
	b.seen("it over the other bubble", both(anywhere(blue), filled(0x0a0b0c)))
	b.silence(true)
	b.seen("the cover", func(m *screen.Image) bool { return !filled(0x0a0b0c)(m) })
	b.silence(false)
	b.seen("both again", both(anywhere(blue), filled(0x0a0b0c)))
	b.chord(103) // back to the list
	b.seen("it over the list", both(anywhere(blue), anywhere(0x2266cc)))
}

// A note leaves by itself after its time, the next one then has its own; a flood of them is bounded.
func TestNoteLeavesByItself(t *testing.T) {
	f, err := newFace(newWatched(t), refusal.English, "")
	require.NoError(t, err)
	now := time.Date(2026, 11, 24, 9, 0, 0, 0, time.UTC)
	require.NoError(t, f.tick(now, 0))
	require.NoError(t, f.viewer.Open(1, 0x00aa88))
	for i := range 3 * maxNotes {
		require.NoError(t, f.tell(note{Note: kiosk.Note{Text: fmt.Sprint("message ", i)}, life: messageLife}))
	}
	require.Len(t, f.notes, maxNotes)
	require.NoError(t, f.tick(now.Add(messageLife-time.Second), 0))
	require.Len(t, f.notes, maxNotes)
	for n := maxNotes - 1; n >= 0; n-- {
		now = now.Add(messageLife)
		require.NoError(t, f.tick(now, 0))
		require.Len(t, f.notes, n)
	}
}

func TestStartingBubbleSaysHowLong(t *testing.T) {
	b := newBench(t)
	b.insert()
	b.login()
	b.press(28)
	at := expect[*wire.Attach](b.centre)
	b.say(&wire.Notice{Refusal: &refusal.Refusal{Code: refusal.BubbleStarting, Suffix: "7K2", Params: map[string]string{"bubble": "Epidemiology", "seconds": "20"}}})
	b.seen("U01", anywhere(amberGround))
	b.show(at, 0x123456)
	b.seen("epi", both(filled(0x123456), not(anywhere(amberGround))))
	b.say(&wire.Notice{Refusal: &refusal.Refusal{Code: refusal.BubbleStarting, Suffix: "7K2"}}) // too late: nothing
	b.press(30)
	require.Equal(t, uint16(30), (<-b.desk.Input()).Code)
	require.True(t, b.screen.see(filled(0x123456)))
}

func TestDeleteAsksThenEnterEndsTheDesktop(t *testing.T) {
	b := newBench(t)
	b.insert()
	b.login()
	const del, escape, enter, down = 111, 1, 28, 108
	asked := both(anywhere(0x00aa88), not(anywhere(0x2266cc))) // the desktop's colour, and no other project's
	b.press(del)
	b.seen("the question", asked)
	b.press(escape)
	b.seen("the list", anywhere(0x2266cc))
	b.press(del)
	b.seen("the question", asked)
	b.press(enter)
	require.Equal(t, &wire.EndDesktop{Session: session, Bubble: "epi"}, expect[*wire.EndDesktop](b.centre))
	b.say(&wire.Bubbles{List: []wire.Bubble{{Name: "epi", Title: "Epidemiology", Colour: 0x00aa88, State: wire.Asleep}, {Name: "law", Title: "Law", Colour: 0x770077, State: wire.Asleep}}})
	b.seen("the list as it is now", anywhere(0x770077))
	b.press(del) // it does not run: there is nothing to end
	b.press(enter)
	at := expect[*wire.Attach](b.centre)
	require.Equal(t, "epi", at.Bubble)
	b.show(at, 0x123456)
	b.seen("epi", filled(0x123456))
	b.chord(103) // back to the list, where it is one that runs now
	require.Equal(t, wire.Menu, expect[*wire.Detach](b.centre).Why)
	b.press(del)
	b.press(enter)
	require.Equal(t, "epi", expect[*wire.EndDesktop](b.centre).Bubble)
}

func TestF2EnlargesTheBoxsOwnScreens(t *testing.T) {
	b := newBench(t)
	rows := func(m *screen.Image) (n int) { // of the screen with anything dark on them: larger letters have more
		for y := range m.Height {
			for x := range m.Width {
				if c := m.RGBAAt(x, y); c.R < 100 && c.G < 100 && c.B < 100 {
					n++
					break
				}
			}
		}
		return n
	}
	b.settle() // it is ready for a card
	var small int
	b.screen.see(func(m *screen.Image) bool { small = rows(m); return true })
	b.press(60)
	b.seen("larger letters", func(m *screen.Image) bool { return rows(m) > small*11/10 })
	b.press(60)
	b.seen("small ones again", func(m *screen.Image) bool { return rows(m) == small })
	b.insert()
	b.login()
	b.press(28)
	b.show(expect[*wire.Attach](b.centre), 0x123456)
	b.seen("epi", filled(0x123456))
	b.press(60)
	require.Equal(t, uint16(60), (<-b.desk.Input()).Code, "in a bubble it is the bubble's key")
}

// The list follows what happens at the centre, and what a person is doing goes on: her choice, what she reads, the bubble she works in.
func TestListIsRenewedUnderThePersonsHands(t *testing.T) {
	b := newBench(t)
	b.insert()
	b.login()
	const del, enter, down = 111, 28, 108
	list := func(epi wire.Availability, more ...wire.Bubble) *wire.Bubbles {
		return &wire.Bubbles{List: append(more, wire.Bubble{Name: "epi", Title: "Epidemiology", Colour: 0x00aa88, State: epi},
			wire.Bubble{Name: "econ", Title: "Economics", Colour: 0x2266cc, State: wire.Open})}
	}
	b.say(&wire.Refused{Refusal: refusal.New(refusal.BubbleDown, "bubble", "History", "since", refusal.Moment(time.Now())), Re: 19})
	b.seen("U02", anywhere(amberGround))
	b.press(down)
	b.press(down) // to econ
	b.settle()
	b.say(&wire.Refused{Refusal: refusal.New(refusal.BubbleDown, "bubble", "History", "since", refusal.Moment(time.Now())), Re: 19})
	b.seen("U02", anywhere(amberGround))
	b.say(list(wire.Asleep, wire.Bubble{Name: "law", Title: "Law", Colour: 0x770077, State: wire.Asleep}))
	b.seen("a project that is new, and the refusal still", both(anywhere(0x770077), anywhere(amberGround)))
	b.press(del)
	b.press(enter)
	require.Equal(t, "econ", expect[*wire.EndDesktop](b.centre).Bubble, "the choice is where it was")

	asked := both(anywhere(0x2266cc), not(anywhere(0x00aa88)))
	sleeps := list(wire.Open)
	sleeps.List[1].State = wire.Asleep
	for _, turn := range []struct {
		then *wire.Bubbles
		mark uint32 // of a project that this turn's list alone has
	}{{sleeps, 0x885511}, {&wire.Bubbles{}, 0x115588}} {
		b.say(list(wire.Open, wire.Bubble{Name: "law", Title: "Law", Colour: turn.mark, State: wire.Asleep}))
		b.seen("the list", anywhere(turn.mark))
		b.press(del)
		b.seen("the question", asked)
		b.say(turn.then)
		b.seen("the list, for there is nothing to end", not(asked))
	}
}

func TestWatchedSessionShowsTheSign(t *testing.T) {
	b := newBench(t)
	signs := func(top, bottom int) func(*screen.Image) bool { // the dark ground of the sign, left of what else is dark there
		return func(m *screen.Image) bool {
			dark := 0
			for y := top; y < bottom; y++ {
				for x := range m.Width * 17 / 20 {
					if c := m.RGBAAt(x, y); c.R == 0x16 && c.G == 0x20 && c.B == 0x2c {
						dark++
					}
				}
			}
			return dark > 500
		}
	}
	list, bar := signs(35, 65), signs(0, 20)
	b.insert()
	b.login()
	b.say(&wire.Watched{Session: ident.ID{9}, On: true}) // another's
	b.say(&wire.Watched{Session: session, On: true})
	b.seen("the sign on the list", list)
	b.press(28)
	at := expect[*wire.Attach](b.centre)
	b.show(at, 0x123456)
	b.seen("the sign on the bar", both(filled(0x123456), bar))
	b.silence(true)
	b.say(&wire.Watched{Session: session})
	b.silence(false)
	b.seen("no sign", both(filled(0x123456), not(bar)))
	b.say(&wire.Watched{Session: session, On: true})
	b.seen("the sign on the bar", both(filled(0x123456), bar))
	b.say(&wire.Ended{Session: session, Refusal: refusal.New(refusal.CutByOperator, "at", refusal.Moment(time.Now()))})
	b.seen("the end", anywhere(0xa61b1b))
	require.True(t, b.screen.see(not(list)), "what follows is nobody's session")
}
