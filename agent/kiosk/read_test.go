// SPDX-License-Identifier: Apache-2.0

package kiosk

import (
	"bytes"
	"fmt"
	"image"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode"

	"sdbox/agent/screen"
	"sdbox/internal/refusal"

	"github.com/stretchr/testify/require"
)

// read returns the text in a part of a picture as optical character recognition sees it, folded.
func read(t testing.TB, img *screen.Image, r image.Rectangle) string {
	var pgm bytes.Buffer
	fmt.Fprintf(&pgm, "P5\n%d %d\n255\n", r.Dx(), r.Dy())
	for y := r.Min.Y; y < r.Max.Y; y++ {
		for x := r.Min.X; x < r.Max.X; x++ {
			c := img.RGBAAt(x, y)
			pgm.WriteByte(byte((299*int(c.R) + 587*int(c.G) + 114*int(c.B)) / 1000))
		}
	}
	cmd := exec.CommandContext(t.Context(), "tesseract", "stdin", "stdout", "--psm", "6", "-l", "eng")
	cmd.Env = append(os.Environ(), "OMP_THREAD_LIMIT=1")
	cmd.Stdin = &pgm
	out, err := cmd.Output()
	require.NoError(t, err, "read a screen with tesseract (package tesseract-ocr)")
	return fold(string(out))
}

// fold keeps letters and digits, without accents, and makes one of those that eyes confuse too.
func fold(s string) string {
	accents := strings.NewReplacer("é", "e", "è", "e", "ê", "e", "à", "a", "â", "a", "î", "i", "ï", "i", "ô", "o", "û", "u", "ù", "u", "ç", "c", "É", "e")
	s = strings.ToLower(accents.Replace(s))
	return strings.Map(func(r rune) rune {
		switch {
		case r == 'o':
			return '0'
		case r == 'l' || r == 'i' || r == '|':
			return '1'
		case r == 's':
			return '5'
		case r < 0x80 && (unicode.IsLetter(r) || unicode.IsDigit(r)):
			return r
		}
		return -1
	}, s)
}

// holds says whether want stands in got but for one misread character in twenty.
func holds(got, want string) bool {
	row := make([]int, len(want)+1) // edits from the best start in got up to here (Sellers)
	for j := range row {
		row[j] = j
	}
	best := row[len(want)]
	for i := range len(got) {
		diagonal := row[0]
		for j := 1; j <= len(want); j++ {
			cost := diagonal
			if got[i] != want[j-1] {
				cost++
			}
			diagonal = row[j]
			row[j] = min(cost, row[j]+1, row[j-1]+1)
		}
		best = min(best, row[len(want)])
	}
	return best <= len(want)/20
}

// everyRefusal runs f for each row and language, two at a time: recognition takes a while.
func everyRefusal(t *testing.T, f func(t *testing.T, k *Kiosk, row refusal.Row, lang refusal.Lang)) {
	limit := make(chan struct{}, 2)
	var wg sync.WaitGroup
	for _, lang := range []refusal.Lang{refusal.French, refusal.English} {
		for _, row := range refusal.Table() {
			limit <- struct{}{}
			wg.Go(func() {
				defer func() { <-limit }()
				t.Run(fmt.Sprintf("%s-%s", row.Code, lang), func(t *testing.T) { f(t, newKiosk(t), row, lang) })
			})
		}
	}
	wg.Wait()
}

func TestEveryRefusalCanBeReadFromThePixels(t *testing.T) {
	everyRefusal(t, func(t *testing.T, k *Kiosk, row refusal.Row, lang refusal.Lang) {
		dst := screen.NewImage(1920, 1080)
		r := example(row.Code)
		k.Draw(dst, Message{Refusal: r}, about(lang))
		got := read(t, dst, image.Rect(360, 150, 1560, 960)) // the sheet
		w := r.Words(lang)
		require.True(t, holds(got, fold(w.Title)), "title %q in %q", w.Title, got)
		require.True(t, holds(got, fold(w.Text)), "text %q in %q", w.Text, got)
		require.True(t, holds(got, fold(w.Next)), "next step %q in %q", w.Next, got)
		require.Contains(t, got, fold("Code "+r.Error()), "code and suffix")
		names := map[refusal.Light]string{refusal.White: "white blanc", refusal.Blue: "blue bleu", refusal.Amber: "amber orange", refusal.Red: "red rouge"}
		en, fr, _ := strings.Cut(names[w.Light], " ")
		require.Contains(t, got, fold(map[refusal.Lang]string{refusal.English: en, refusal.French: fr}[lang]), "the light's name")
	})
}

func TestReadyScreenHasItsCodeAndTheLightsName(t *testing.T) {
	k, dst := newKiosk(t), screen.NewImage(1920, 1080)
	for lang, want := range map[refusal.Lang]string{refusal.English: "White: ready Code A00", refusal.French: "Blanc : prêt Code A00"} {
		k.Draw(dst, Ready{}, about(lang))
		got := read(t, dst, image.Rect(700, 800, 1220, 856))
		require.True(t, holds(got, fold(want)), got)
	}
}

func TestAmberAndRedScreensShowTheSupportContact(t *testing.T) {
	k, dst := newKiosk(t), screen.NewImage(1920, 1080)
	k.Draw(dst, Message{Refusal: example(refusal.CardLocked)}, about(refusal.English))
	require.Contains(t, read(t, dst, image.Rect(1200, 980, 1920, 1060)), fold("Support +33 1 75 60 12 00"))
}

func TestWrongFingerScreenTellsTheTriesLeft(t *testing.T) {
	k, dst := newKiosk(t), screen.NewImage(1920, 1080)
	for lang, want := range map[refusal.Lang][2]string{
		refusal.English: {"2 tries left", "Place your finger."}, refusal.French: {"Encore 2 essais", "Posez votre doigt."},
	} {
		r := example(refusal.WrongFinger)
		k.Draw(dst, Finger{"Camille Durand", false, &r}, about(lang))
		got := read(t, dst, image.Rect(360, 440, 1560, 960))
		for _, s := range []string{want[0], want[1], "Camille Durand", "C03-7K2", r.Words(lang).Next} {
			require.Contains(t, got, fold(s))
		}
	}
}

func TestListNamesStateEndPlaceAndReason(t *testing.T) {
	k, dst := newKiosk(t), screen.NewImage(1920, 1080)
	for lang, want := range map[refusal.Lang][]string{
		refusal.English: {"Your projects", "Open: your desktop is running", "until 30 June 2027", "from France or the Netherlands", "Asleep", "from anywhere",
			"ended on 30 June 2026", "P02-4QR", "Ask for an extension", "can only be opened from France", "P05-9KD"},
		refusal.French: {"Vos projets", "Ouvert : votre bureau tourne", "jusqu'au 30 juin 2027", "En veille", "terminé le 30 juin 2026", "P02-4QR",
			"uniquement depuis la France", "P05-9KD"},
	} {
		k.Draw(dst, List{Name: "Camille Durand", Bubbles: projects()}, about(lang))
		got := read(t, dst, image.Rect(330, 190, 1560, 800))
		for _, s := range want {
			require.True(t, holds(got, fold(s)), "%q in %q", s, got)
		}
	}
}

func TestCutScreenTellsTheOperatorsReason(t *testing.T) {
	k, dst := newKiosk(t), screen.NewImage(1920, 1080)
	reason := "The screen was being photographed"
	withReason := refusal.New(refusal.CutByOperator, "at", today(14, 2), "reason", reason)
	without := refusal.New(refusal.CutByOperator, "at", today(14, 2))
	for _, r := range []refusal.Refusal{withReason, without} {
		k.Draw(dst, Ended{r, reason}, about(refusal.French))
		got := read(t, dst, image.Rect(360, 150, 1560, 900))
		require.True(t, holds(got, fold("Un superviseur a terminé cette session à 14 h 02.")), got)
		require.Equal(t, 1, strings.Count(got, fold(reason)), "the reason stands once in %q", got)
	}
}

func TestCardOutIsBlackButForItsSentence(t *testing.T) {
	k, dst := newKiosk(t), screen.NewImage(1920, 1080)
	dst.Fill(dst.Bounds(), 0xffffff)
	for lang, want := range map[refusal.Lang]string{
		refusal.English: "Your work goes on. Insert your card to come back.", refusal.French: "Votre travail continue. Insérez votre carte pour revenir.",
	} {
		k.Draw(dst, CardOut{}, about(lang))
		require.Equal(t, fold(want), read(t, dst, image.Rect(560, 440, 1360, 660)))
		lit := 0
		for i := 0; i < len(dst.Pix); i += 4 {
			if dst.Pix[i]|dst.Pix[i+1]|dst.Pix[i+2] != 0 {
				lit++
			}
		}
		require.Less(t, lit, 20_000, "of two million pixels")
	}
}

func TestSlowModeStandsInTheBarAndUnderTheBoxsOwnScreens(t *testing.T) {
	k := newKiosk(t)
	for lang, words := range map[refusal.Lang]string{refusal.English: "slow mode N08-7K2", refusal.French: "mode lent N08-7K2"} {
		img, bar := screen.NewImage(1920, 1080), image.Rect(0, 0, 1920, 40)
		b := Bar{Title: "Epidemiology of stroke", Person: "Camille Durand", Colour: 0x2563eb, Delay: 38 * time.Millisecond}
		a := about(lang)
		a.Slow = example(refusal.SlowMode)
		k.Bar(img, bar, b, a)
		text := read(t, img, bar)
		require.True(t, holds(text, fold(words)), "%s: %s", lang, text)
		k.Bar(img, bar, b, about(lang))
		require.NotContains(t, read(t, img, bar), "7k2")
		for _, a.Large = range []bool{false, true} {
			k.Draw(img, Ready{}, a)
			keep(t, fmt.Sprintf("1920-ready-slow-%v-%s", a.Large, lang), img)
			text = read(t, img, image.Rect(0, 1020, 1920, 1080))
			require.True(t, holds(text, fold(a.Slow.Words(lang).String()+a.Slow.Error())), "%s: %s", lang, text)
		}
	}
}

func TestNoteSaysWhatItIsWhomToCallAndHowToPutItAway(t *testing.T) {
	k := newKiosk(t)
	for lang, want := range map[refusal.Lang][]string{
		refusal.English: {"Message from the centre", "The centre closes at 20:00.", "Ctrl+Alt+Down"}, refusal.French: {"Message du centre", "The centre closes at 20:00.", "Ctrl+Alt+Bas"},
	} {
		dst := screen.NewImage(1920, 1080)
		desktop(dst)
		got := read(t, dst, k.Note(dst, Note{Text: "The centre\ncloses at 20:00.", At: morning}, about(lang)))
		for _, s := range want {
			require.Contains(t, got, fold(s))
		}
		r := example(refusal.ProjectEnding)
		got = read(t, dst, k.Note(dst, Note{Refusal: &r}, about(lang)))
		require.True(t, holds(got, fold(r.Words(lang).Title)), got)
		require.True(t, holds(got, fold(r.Words(lang).Next)), got)
		for _, s := range []string{"P06-7K2", "+33 1 75 60 12 00"} {
			require.Contains(t, got, fold(s))
		}
	}
}

func TestWatchedSessionSaysSoInTheBarAndOnTheList(t *testing.T) {
	k := newKiosk(t)
	for lang, words := range map[refusal.Lang]string{refusal.English: "Watched by the centre", refusal.French: "Observé par le centre"} {
		for _, watched := range []bool{true, false} {
			a := about(lang)
			a.Watched, a.Slow = watched, example(refusal.SlowMode)
			img, bar := screen.NewImage(1920, 1080), image.Rect(0, 0, 1920, 40)
			b := Bar{Title: strings.Repeat("Epidemiology of stroke ", 9), Person: "Camille Durand", Colour: 0x2563eb, Delay: 38 * time.Millisecond}
			k.Bar(img, bar, b, a)
			text := read(t, img, bar)
			require.Equal(t, watched, holds(text, fold(words)), "%s: %s", lang, text)
			require.True(t, holds(text, fold("Camille Durand")), "the name stays readable beside it: %s", text)
			k.Draw(img, List{Name: "Camille Durand", Bubbles: projects()}, a)
			keep(t, fmt.Sprintf("1920-list-watched-%v-%s", watched, lang), img)
			text = read(t, img, image.Rect(600, 60, 1320, 140))
			require.Equal(t, watched, holds(text, fold(words)), "%s: %s", lang, text)
		}
	}
}
