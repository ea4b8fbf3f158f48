// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"bytes"
	"fmt"
	"testing"
	"time"

	"sdbox/agent/keys"
	"sdbox/agent/kiosk"
	"sdbox/agent/screen"
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
	f, err := newFace(newWatched(), refusal.English, "")
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
	b.say(&wire.Bubbles{List: []wire.Bubble{{Name: "epi", Title: "Epidemiology", Colour: 0x00aa88, State: wire.Asleep}, {Name: "law", Title: "Law", Colour: 0x770077, State: wire.Asleep}},
		Grant: wire.Grant{Statement: []byte{1}, LifeMS: 600_000, Nonce: bytes.Repeat([]byte{9}, 32), Epoch: 3}})
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
