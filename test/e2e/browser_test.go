// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"image"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
	"unicode"

	"sdbox/agent/viewer"
	"sdbox/internal/lab/browser"
	"sdbox/internal/lab/house"

	"github.com/chromedp/cdproto/input"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
	"github.com/stretchr/testify/require"
)

// pageWait is how long a person waits for anything on a page.
const pageWait = time.Minute

// labUp starts the house and returns the two addresses that it prints. It ends with the test, as Ctrl-C ends it.
func labUp(t *testing.T) (lab, operators string) {
	bin := programs(t)
	dir, err := os.MkdirTemp("", "lab") // short: sockets lie in it
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	cmd := exec.Command(bin+"/sdbox-lab", "up", "--bin", bin, "--out", dir, "--page", "127.0.0.1:0", "--operators", "127.0.0.1:0")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	var errs bytes.Buffer // read only when the program has ended
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	cmd.Stderr = &errs
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		require.NoError(t, syscall.Kill(-cmd.Process.Pid, syscall.SIGINT)) // a terminal sends it to all of the group
		require.NoError(t, cmd.Wait(), "%s", &errs)
	})
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if m := regexp.MustCompile(`^ +lab page +(http\S+)`).FindStringSubmatch(lines.Text()); m != nil {
			lab = m[1]
		}
		if m := regexp.MustCompile(`^ +operators' page +(http\S+)`).FindStringSubmatch(lines.Text()); m != nil {
			return lab, m[1]
		}
	}
	require.Fail(t, "the lab did not come up")
	return "", ""
}

// tab is one page that a person has open.
type tab struct {
	t    *testing.T
	page context.Context
}

func (p tab) wait() (context.Context, context.CancelFunc) {
	return context.WithTimeout(p.page, pageWait)
}

func (p tab) do(steps ...chromedp.Action[chromedp.Void]) {
	p.t.Helper()
	ctx, cancel := p.wait()
	defer cancel()
	if err := chromedp.Do(ctx, steps...); err != nil {
		require.NoError(p.t, err, "the page says: %s", p.says())
	}
}

// says is what a person reads beside the screen.
func (p tab) says() string {
	ctx, cancel := context.WithTimeout(p.page, time.Second)
	defer cancel()
	says, err := chromedp.Run(ctx, chromedp.Evaluate[string]("document.body.innerText"))
	if err != nil {
		return err.Error()
	}
	return says
}

func (p tab) click(selector string) {
	p.t.Helper()
	p.do(chromedp.Click(chromedp.CSS(selector)))
}

func (p tab) until(expression string) {
	p.t.Helper()
	ctx, cancel := p.wait()
	defer cancel()
	if err := browser.Until(ctx, expression); err != nil {
		require.NoError(p.t, err, "the page says: %s", p.says())
	}
}

func (p tab) noBarriers() {
	p.t.Helper()
	for _, dark := range []bool{true, false} {
		require.NoError(p.t, browser.As(p.page, browser.Look{Language: "en", Zone: "Europe/Paris", Dark: dark, Width: 1600, Height: 1000}))
		found, err := browser.Barriers(p.page)
		require.NoError(p.t, err)
		require.Empty(p.t, found)
	}
}

// chord presses real keys together, as they lie on the keyboard.
func (p tab) chord(codes ...string) {
	p.t.Helper()
	for _, code := range codes {
		_, err := chromedp.Call(p.page, input.DispatchKeyEvent, input.DispatchKeyEventParams{Type: input.DispatchKeyEventTypeRawKeyDown, Code: code})
		require.NoError(p.t, err)
	}
	for _, code := range codes {
		_, err := chromedp.Call(p.page, input.DispatchKeyEvent, input.DispatchKeyEventParams{Type: input.DispatchKeyEventTypeKeyUp, Code: code})
		require.NoError(p.t, err)
	}
}

// clickBox clicks at a point of the box's screen.
func (p tab) clickBox(at image.Point) {
	p.t.Helper()
	place, err := chromedp.Run(p.page, chromedp.Evaluate[[]float64](fmt.Sprintf(`(() => { const c = document.querySelector("#screen"), r = c.getBoundingClientRect();
		return [r.left + %d * r.width / c.width, r.top + %d * r.height / c.height]; })()`, at.X, at.Y)))
	require.NoError(p.t, err)
	p.do(chromedp.MouseClickXY(place[0], place[1]))
}

// focused waits until the window manager shows that a window has the focus: it paints the title bar blue.
func (p tab) focused(title image.Point) {
	p.t.Helper()
	p.until(fmt.Sprintf(`(([r, g, b]) => b > r + 20)(document.querySelector("#screen").getContext("2d").getImageData(%d, %d, 1, 1).data)`, title.X-300, title.Y))
}

// look is a part of the box's screen as the page shows it, a PNG; a small part twice as large, for small letters.
func (p tab) look(r image.Rectangle) []byte {
	p.t.Helper()
	times := 2
	if r.Dx()*r.Dy() > house.ScreenWidth*house.ScreenHeight/4 {
		times = 1
	}
	answer, err := chromedp.Run(p.page, chromedp.Evaluate[string](fmt.Sprintf(`(() => { const o = document.createElement("canvas"); o.width = %d; o.height = %d;
		const x = o.getContext("2d"); x.imageSmoothingEnabled = false;
		x.drawImage(document.querySelector("#screen"), %d, %d, %d, %d, 0, 0, o.width, o.height); return o.toDataURL("image/png"); })()`,
		times*r.Dx(), times*r.Dy(), r.Min.X, r.Min.Y, r.Dx(), r.Dy())))
	require.NoError(p.t, err)
	png, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(answer, "data:image/png;base64,"))
	require.NoError(p.t, err)
	return png
}

// read waits until all words stand in a part of the box's screen, by optical character recognition.
func (p tab) read(r image.Rectangle, words ...string) {
	p.t.Helper()
	ctx, cancel := p.wait()
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	var before []byte
	var text string
	for {
		if now := p.look(r); !bytes.Equal(now, before) {
			before, text = now, recognise(p.t, now)
			if holds(text, words) {
				return
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			require.Fail(p.t, "not on the screen of the box", "%q; it says %q, and the page %q", words, text, p.says())
		}
	}
}

func recognise(t *testing.T, png []byte) string {
	cmd := exec.Command("tesseract", "stdin", "stdout", "--psm", "11", "-l", "eng")
	cmd.Env = append(os.Environ(), "OMP_THREAD_LIMIT=1")
	cmd.Stdin = bytes.NewReader(png)
	out, err := cmd.Output()
	require.NoError(t, err, "package tesseract-ocr")
	return strings.Join(strings.Fields(string(out)), " ")
}

// holds compares letters and digits alone, O and 0 as one.
func holds(text string, words []string) bool {
	only := func(s string) string {
		return strings.Map(func(r rune) rune {
			switch {
			case r == 'O' || r == 'o':
				return '0'
			case unicode.IsLetter(r) || unicode.IsDigit(r):
				return unicode.ToLower(r)
			}
			return -1
		}, s)
	}
	for _, w := range words {
		if !strings.Contains(only(text), only(w)) {
			return false
		}
	}
	return true
}

// TestChromiumPlaysTheDay plays a researcher's day on the lab page and an operator's on hers, with clicks and keys alone, and reads
// the box's screen from the page's pixels.
func TestChromiumPlaysTheDay(t *testing.T) {
	require.Zero(t, os.Geteuid(), "the lab makes namespaces: run the tests as root")
	home, link := labUp(t)
	page, closing, err := browser.Open(t.Context(), t.TempDir())
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, closing()) })
	second, leave := chromedp.NewContext(page)
	t.Cleanup(leave)
	require.NoError(t, chromedp.Do(second), "a page lives as long as the first context it is used with")
	lab, console := tab{t, page}, tab{t, second}
	whole := image.Rect(0, 0, house.ScreenWidth, house.ScreenHeight)
	middle := whole.Inset(240)
	area := viewer.Area(house.ScreenWidth, house.ScreenHeight)
	title := viewer.BarArea(house.ScreenWidth, house.ScreenHeight)
	sign := title
	sign.Min.X += title.Dx() * 2 / 3
	title.Max.X /= 3 // the right end moves with the delay
	sheet := image.Rect(30, 20, 660, 400).Add(area.Min)
	terminal := house.Terminal().Add(area.Min)
	terminal.Max.Y = terminal.Min.Y + 160

	// The card and the finger by clicks.
	lab.do(chromedp.Navigate(home))
	lab.noBarriers()
	lab.read(middle, "Ready. Insert your card")
	insert, pull := `[aria-label="Insert the card of Camille Durand into AMS-0017"]`, `[aria-label="Pull out the card of Camille Durand"]`
	lab.click(insert)
	lab.read(middle, "Camille Durand", "Place your finger")
	lab.click(`[data-finger="wrong"]`)
	lab.read(middle, "C03", "2 tries left")
	lab.click(`[data-finger="right"]`)
	lab.read(whole, "Respiratory infections 2026", "Consumer prices")

	// Enter opens the first project; what is typed in its terminal is computed there.
	lab.clickBox(image.Pt(house.ScreenWidth/2, 20))
	lab.do(chromedp.KeyEvent(kb.Enter))
	lab.read(title, "Respiratory infections 2026")
	lab.read(terminal, "durand@epi")
	lab.read(sheet, "incidence_per_100k", "Bretagne") // a window that comes later would take the focus from the terminal
	lab.clickBox(area.Min.Add(house.TerminalTitle()))
	lab.focused(area.Min.Add(house.TerminalTitle()))
	lab.do(chromedp.KeyEvent("expr 7006653 - 1\r"))
	lab.read(terminal, "7006652")

	// The operator enters by the printed link, once, and sees who works where.
	console.do(chromedp.Navigate(link))
	console.click("button.primary")
	console.until(`document.querySelector("#rows tr").innerText.match(/Camille Durand.*AMS-0017.*Respiratory infections 2026.*working/s)`)
	console.noBarriers()
	require.NoError(t, browser.TabTo(second, "a.cut"))

	// Another project by three keys: the operator's table follows, and her hands stay where they are.
	lab.chord("ControlLeft", "AltLeft", "ArrowRight")
	lab.read(title, "Consumer prices")
	console.until(`document.querySelector("#rows tr").innerText.includes("Consumer prices")`)
	console.until(`document.activeElement.matches("a.cut")`)

	// She looks at this session alone: the person reads so. A message is on the screen; back by the page's button, where the work was left.
	console.click(`[id^="see-"]`)
	console.until(`document.querySelector(".eye")`)
	lab.read(sign, "Watched by the centre")
	console.noBarriers()
	console.click(`[id^="tell-"]`)
	console.until(`document.activeElement.id === "text"`)
	console.do(chromedp.KeyEvent("Maintenance at noon"))
	console.click("button.primary")
	console.until(`document.querySelector(".done")`)
	lab.read(whole, "Maintenance at noon")
	lab.click(`[title="Ctrl+Alt+Left"]`)
	lab.read(title, "Respiratory infections 2026")
	lab.read(terminal, "7006652")

	// Card out, and in at the second box: the work went on.
	lab.click(pull)
	lab.read(middle, "Your work goes on")
	console.until(`document.querySelector("#rows tr").innerText.includes("card out, work goes on")`)
	lab.click("#tab-AMS-0018")
	lab.click(strings.ReplaceAll(insert, "AMS-0017", "AMS-0018"))
	lab.read(middle, "Place your finger")
	lab.click(`[data-finger="right"]`)
	lab.read(whole, "Consumer prices")
	lab.noBarriers()
	lab.clickBox(image.Pt(house.ScreenWidth/2, 20))
	lab.do(chromedp.KeyEvent(kb.Enter))
	lab.read(title, "Respiratory infections 2026")
	lab.read(terminal, "7006652")

	// The operator cuts, with a reason and by name; the screen says why.
	console.until(`document.querySelector("#rows tr").innerText.match(/AMS-0018.*working/s)`)
	console.click("a.cut")
	console.until(`document.activeElement.id === "reason"`)
	console.noBarriers()
	console.do(chromedp.KeyEvent("Centre closes early"))
	console.until(`document.querySelector("button.danger").textContent === "End the session of Camille Durand in Respiratory infections 2026"`)
	console.click("button.danger")
	console.until(`document.querySelector("#rows").innerText.includes("Nobody is working")`)
	lab.read(whole, "Centre closes early", "S04")
	console.do(chromedp.Navigate(link))
	console.click("button.primary")
	console.until(`document.body.innerText.includes("This link was used already")`)
}
