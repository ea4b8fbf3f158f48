// SPDX-License-Identifier: Apache-2.0

package kiosk

import (
	"flag"
	"fmt"
	"image"
	"image/png"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sdbox/agent/screen"
	"sdbox/internal/refusal"
	"sdbox/internal/wire"

	"github.com/stretchr/testify/require"
)

// pictures is where to leave a PNG of every screen drawn, to look at: go test ./agent/kiosk -pictures DIR.
var pictures = flag.String("pictures", "", "folder for a PNG of every screen drawn")

var morning = time.Date(2026, 11, 24, 9, 41, 0, 350e6, time.UTC)

func about(lang refusal.Lang) Around {
	return Around{Language: lang, Support: "+33 1 75 60 12 00", Box: "PARIS-0042", Now: morning}
}

func newKiosk(t testing.TB) *Kiosk {
	k, err := New()
	require.NoError(t, err)
	return k
}

// keep leaves a PNG where -pictures says.
func keep(t testing.TB, name string, img *screen.Image) {
	if *pictures == "" {
		return
	}
	require.NoError(t, os.MkdirAll(*pictures, 0o755))
	writePNG(t, filepath.Join(*pictures, name+".png"), img)
}

func writePNG(t testing.TB, path string, img *screen.Image) {
	f, err := os.Create(path)
	require.NoError(t, err)
	require.NoError(t, (&png.Encoder{CompressionLevel: png.BestSpeed}).Encode(f, img.RGBA()))
	require.NoError(t, f.Close())
}

func projects() []wire.Bubble {
	until := time.Date(2027, 6, 30, 0, 0, 0, 0, time.UTC).UnixMilli()
	ended := refusal.Refusal{Code: refusal.ProjectEnded, Suffix: "4QR", Params: map[string]string{"project": "Rare diseases", "date": "2026-06-30"}}
	away := refusal.Refusal{Code: refusal.NotFromHere, Suffix: "9KD", Params: map[string]string{"project": "Customs", "countries": "FR", "here": "NL"}}
	return []wire.Bubble{
		{Name: "epi", Title: "Epidemiology of stroke", Colour: 0x2563eb, State: wire.Open, Until: until, Countries: []string{"FR", "NL"}},
		{Name: "econ", Title: "Econometrics of housing", Colour: 0xc2410c, State: wire.Asleep, Until: until},
		{Name: "rare", Title: "Rare diseases", Colour: 0x7c3aed, State: wire.Refuses, Refusal: &ended},
		{Name: "customs", Title: "Customs declarations", Colour: 0x0f766e, State: wire.Refuses, Countries: []string{"FR"}, Refusal: &away},
	}
}

// today is a refusal.Moment at this time of day where the tests run.
func today(hour, minute int) string {
	return refusal.Moment(time.Date(2026, 11, 24, hour, minute, 0, 0, time.Local))
}

// moments is every screen, by name.
func moments() map[string]View {
	finger := refusal.Refusal{Code: refusal.WrongFinger, Suffix: "7K2", Params: map[string]string{"left": "2"}}
	silent := refusal.Refusal{Code: refusal.CentreSilent, Suffix: "8PT", Params: map[string]string{"try": "2", "ways": "4"}}
	cut := refusal.Refusal{Code: refusal.CutByOperator, Suffix: "3MN", Params: map[string]string{"at": today(14, 2)}}
	down := refusal.Refusal{Code: refusal.BubbleDown, Suffix: "6HT", Params: map[string]string{"bubble": "Econometrics", "since": today(10, 12)}}
	starts := example(refusal.BubbleStarting)
	views := map[string]View{
		"boot": Boot{}, "boot-silent": Boot{&silent}, "ready": Ready{}, "reading": ReadingCard{},
		"finger": Finger{Name: "Camille Durand"}, "finger-wrong": Finger{"Camille Durand", false, &finger},
		"verifying": Verifying{"Camille Durand"},
		"list":      List{Name: "Camille Durand", Bubbles: projects()}, "list-refused": List{"Camille Durand", projects(), 1, &down},
		"list-empty": List{Name: "Camille Durand"}, "opening": Opening{Title: "Epidemiology of stroke", Colour: 0x2563eb}, "opening-starts": Opening{"Housing", 0x2563eb, &starts}, "end-desktop": EndDesktop{"Epidemiology of stroke", 0x2563eb}, "card-out": CardOut{},
		"updating": Message{example(refusal.Updating), 0.4},
		"ended":    Ended{cut, "The screen was being photographed"},
	}
	for _, row := range refusal.Table() {
		views["message-"+string(row.Code)] = Message{Refusal: example(row.Code)}
	}
	return views
}

// example is a refusal with parameters for every row.
func example(code refusal.Code) refusal.Refusal {
	return refusal.Refusal{Code: code, Suffix: "7K2", Params: map[string]string{
		"left": "2", "date": "2026-03-12", "project": "Housing", "countries": "FR", "here": "NL", "at": today(14, 2), "since": today(10, 12),
		"reason": "Screen was photographed", "box": "PARIS-0042", "bubble": "Housing", "seconds": "20", "minutes": "15", "try": "2", "ways": "4", "rest": "130",
	}}
}

func TestEveryScreenIsDrawnAtEverySize(t *testing.T) {
	for _, size := range []image.Point{{1920, 1080}, {1024, 768}, {2560, 1080}, {640, 480}} {
		k := newKiosk(t)
		dst := screen.NewImage(size.X, size.Y)
		for name, v := range moments() {
			k.Draw(dst, v, about(refusal.French))
			keep(t, fmt.Sprintf("%d-%s-fr", size.X, name), dst)
			if size.X == 640 {
				require.Empty(t, k.Draw(dst, v, about(refusal.French)), "%s: the same view again changes nothing", name)
			}
			if size.X == 1920 && *pictures != "" {
				k.Draw(dst, v, about(refusal.English))
				keep(t, fmt.Sprintf("%d-%s-en", size.X, name), dst)
			}
			if size.X != 2560 {
				large := about(refusal.French)
				large.Large = true
				k.Draw(dst, v, large)
				keep(t, fmt.Sprintf("%d-%s-large", size.X, name), dst)
			}
		}
	}
}

func ptr[T any](v T) *T { return &v }

// desktop fills an image with something like a bubble's picture.
func desktop(img *screen.Image) {
	img.Fill(img.Bounds(), 0x30506e)
	img.Fill(image.Rect(200, 160, 1300, 900), 0xf4f4f4)
	img.Fill(image.Rect(200, 160, 1300, 196), 0x3c4752)
	for i := range 24 {
		img.Fill(image.Rect(230, 220+i*26, 400+(i*197)%800, 232+i*26), 0x8a929b)
	}
}

func TestBarAndCoverAreDrawnOverAPicture(t *testing.T) {
	k := newKiosk(t)
	for _, lang := range []refusal.Lang{refusal.French, refusal.English} {
		img := screen.NewImage(1920, 1080)
		desktop(img)
		img.Fill(image.Rect(0, 1076, 1920, 1080), 0x2563eb)
		img.Fill(image.Rect(0, 0, 4, 1080), 0x2563eb)
		img.Fill(image.Rect(1916, 0, 1920, 1080), 0x2563eb)
		bar := image.Rect(0, 0, 1920, 40)
		k.Bar(img, bar, Bar{Title: "Epidemiology of stroke", Person: "Camille Durand", Colour: 0x2563eb, Delay: 38 * time.Millisecond}, about(lang))
		keep(t, "1920-desk-"+string(lang), img)
		watched := about(lang)
		watched.Watched, watched.Slow = true, example(refusal.SlowMode)
		k.Bar(img, bar, Bar{Title: "Epidemiology of stroke", Person: "Camille Durand", Colour: 0x2563eb, Delay: 38 * time.Millisecond}, watched)
		keep(t, "1920-watched-"+string(lang), img)
		for i, n := range []Note{{Text: strings.Repeat("The centre closes at 20:00 today. ", 9), At: morning}, {Refusal: ptr(example(refusal.ProjectEnding))}} {
			over := screen.NewImage(1920, 1080)
			over.Copy(img, img.Bounds())
			at := k.Note(over, n, about(lang))
			require.True(t, at.In(img.Bounds()) && at.Min.Y > bar.Max.Y)
			for _, r := range replace(over, img) { // what was there is whole outside the note
				require.True(t, r.Overlaps(at))
			}
			over.Copy(img, img.Bounds())
			k.Note(over, n, about(lang))
			keep(t, fmt.Sprintf("1920-note-%d-%s", i, lang), over)
		}
		k.Cover(img, example(refusal.LinkLost), about(lang))
		keep(t, "1920-lost-"+string(lang), img)
	}
}

func TestTextReachesContrastAA(t *testing.T) {
	for _, pair := range [][2]uint32{
		{ink, paper}, {ink, paperEnd}, {soft, paper}, {soft, paperEnd}, {soft, sheet}, {accent, paper}, {accent, paperEnd}, {accent, accentBg},
		{blueInk, blueBg}, {amberInk, amberBg}, {amberInk, paper}, {redInk, redBg}, {redInk, paper}, {blueInk, paper}, {ink, blueBg}, {ink, amberBg}, {ink, redBg},
		{0xe6ebf0, 0}, {0xa3b0bd, 0}, {0xf2f5f8, ink},
	} {
		require.GreaterOrEqual(t, contrast(pair[0], pair[1]), 4.5, "%06x on %06x", pair[0], pair[1])
	}
	for rgb := range uint32(1 << 12) { // every colour a bubble may have, coarsely
		colour := rgb>>8*0x110000 + rgb>>4&15*0x1100 + rgb&15*0x11
		require.GreaterOrEqual(t, contrast(onColour(colour), colour), 4.5, "%06x", colour)
	}
}

func TestTheClockChangesOnlyItsCorner(t *testing.T) {
	k, dst := newKiosk(t), screen.NewImage(1920, 1080)
	a := about(refusal.English)
	require.NotEmpty(t, k.Draw(dst, Ready{}, a))
	a.Now = a.Now.Add(time.Minute)
	changed := k.Draw(dst, Ready{}, a)
	require.NotEmpty(t, changed)
	for _, r := range changed {
		require.True(t, r.In(image.Rect(1664, 64, 1920, 160)), "%v", r)
	}
}

func TestDamageIsAllThatChanged(t *testing.T) {
	k, dst, shown := newKiosk(t), screen.NewImage(1920, 1080), screen.NewImage(1920, 1080)
	for _, v := range []View{Ready{}, Finger{Name: "Camille Durand"}, List{Name: "Camille Durand", Bubbles: projects()},
		List{Name: "Camille Durand", Bubbles: projects(), Selected: 2}, CardOut{}, Message{Refusal: example(refusal.CardLocked)}} {
		for _, r := range k.Draw(dst, v, about(refusal.English)) {
			shown.Copy(dst, r)
		}
		require.Equal(t, dst.Pix, shown.Pix, "%T", v)
	}
}

func TestOnlyWaitingTurns(t *testing.T) {
	k, dst := newKiosk(t), screen.NewImage(960, 540)
	for _, c := range []struct {
		view  View
		turns bool
	}{{Boot{}, true}, {Ready{}, false}, {Verifying{}, true}, {CardOut{}, false}, {Opening{}, true}, {List{}, false}} {
		a := about(refusal.English)
		k.Draw(dst, c.view, a)
		require.Equal(t, c.turns, k.Turns(), "%T", c.view)
		a.Now = a.Now.Add(300 * time.Millisecond)
		require.Equal(t, c.turns, len(k.Draw(dst, c.view, a)) > 0, "%T", c.view)
	}
}

func TestPointerPicksTheRowUnderIt(t *testing.T) {
	k, dst := newKiosk(t), screen.NewImage(1920, 1080)
	k.Draw(dst, List{Name: "Camille Durand", Bubbles: projects()}, about(refusal.English))
	seen := map[int]bool{}
	for y := range 1080 {
		if i, ok := k.Hit(960, y); ok {
			seen[i] = true
		}
		_, ok := k.Hit(20, y)
		require.False(t, ok)
	}
	require.Len(t, seen, 4)
	k.Draw(dst, Ready{}, about(refusal.English))
	for y := range 1080 {
		_, ok := k.Hit(960, y)
		require.False(t, ok, "a list that is gone cannot be hit")
	}
}

func TestLongListKeepsTheSelectedRowInSight(t *testing.T) {
	k, dst := newKiosk(t), screen.NewImage(1280, 720)
	var many []wire.Bubble
	for range 4 {
		many = append(many, projects()...)
	}
	for selected := -1; selected <= len(many); selected++ {
		k.Draw(dst, List{Name: "Camille Durand", Bubbles: many, Selected: selected}, about(refusal.English))
		found := false
		for _, r := range k.rows {
			found = found || r.index == min(max(selected, 0), len(many)-1)
			require.True(t, r.at.In(image.Rect(0, 0, 1280, 660)), "row %d at %v", r.index, r.at)
		}
		require.True(t, found, "row %d of %d", selected, len(many))
	}
}

func TestNoLineBeginsWithASignANumberOrAnHour(t *testing.T) {
	k := newKiosk(t)
	face := faceKey{bold, 50}
	for text, apart := range map[string]string{
		"Un superviseur a terminé cette session à 14 h 02.":                 `(^|\n)(14|h|02)`,
		"Ce boîtier ne peut pas prouver qu'il est intact : il reste fermé.": `(^|\n):`,
		"Take your card out. If in doubt, call support, code S04-7K2.":      `(^|\n)S04`,
		"THE CENTRE CLOSES AT 20:00 TODAY. SAVE YOUR WORK, ALL OF IT, NOW!": `(^|\n)20`,
		strings.TrimSpace(strings.Repeat("1 ", 60)):                         `2`,
	} {
		for width := 400; width < 1400; width += 7 {
			lines := k.fonts.wrap(face, text, width, 60)
			require.NotRegexp(t, apart, strings.Join(lines, "\n"), "%d pixels wide", width)
			require.Equal(t, text, strings.Join(lines, " "))
		}
	}
}

func TestHostileTextStaysInsideItsPlace(t *testing.T) {
	k, dst := newKiosk(t), screen.NewImage(1280, 720)
	long := strings.Repeat("W\u202e\x00\xff漢", 5_000)
	b := wire.Bubble{Title: long, State: wire.Availability(long), Until: 1 << 62, Countries: []string{long, long}, Colour: 0xffffffff}
	refused := refusal.Refusal{Code: refusal.Code(long), Suffix: long, Params: map[string]string{"reason": long, "left": long}}
	a := Around{Language: refusal.Lang(long), Support: long, Box: long, Now: morning, Slow: refused}
	b2 := b
	b2.Refusal = &refused
	for _, v := range []View{Boot{&refused}, Finger{long, false, &refused}, Verifying{long}, List{long, []wire.Bubble{b, b2}, 1 << 40, &refused},
		Opening{long, 1 << 31, &refused}, EndDesktop{long, 1 << 31}, Message{Refusal: refused}, Ended{refused, long}} {
		k.Draw(dst, v, a)
	}
	k.Bar(dst, image.Rect(0, 0, 1280, 28), Bar{Title: long, Person: long, Delay: 1 << 62}, a)
	k.Cover(dst, refused, a)
	require.LessOrEqual(t, len(k.fonts.glyphs), maxGlyphs)
}

func TestBarNeverPaintsOutsideItsRegion(t *testing.T) {
	k, dst := newKiosk(t), screen.NewImage(1920, 1080)
	at := image.Rect(0, 0, 1920, 40)
	k.Bar(dst, at, Bar{Title: strings.Repeat("Title ", 80), Person: strings.Repeat("Name ", 80), Colour: 0x7c3aed, Delay: -1}, about(refusal.French))
	a := about(refusal.French)
	a.Watched, a.Slow = true, example(refusal.SlowMode)
	k.Bar(dst, at, Bar{Title: strings.Repeat("Title ", 80), Person: strings.Repeat("Name ", 80), Colour: 0x7c3aed, Delay: -1}, a)
	require.Equal(t, make([]byte, 1920*1040*4), dst.Pix[40*dst.Stride:])
}
