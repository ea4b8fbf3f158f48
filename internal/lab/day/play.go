// SPDX-License-Identifier: Apache-2.0

package day

import (
	"context"
	"errors"
	"fmt"
	"image"
	"io"
	"path/filepath"
	"regexp"
	"strconv"
	"time"

	"sdbox/agent/keys"
	"sdbox/agent/screen"
	"sdbox/agent/viewer"
	"sdbox/internal/lab/house"
)

// How long a person would wait for anything before giving up, and for a machine that is emulated without help of the processor, some
// ten times slower.
const (
	stepTimeout     = 45 * time.Second
	emulatedTimeout = 4 * time.Minute
)

// Options say how a day is played.
type Options struct {
	Out     string    // folder of report.json and one picture per step
	Print   io.Writer // the table of steps and the figures
	Samples *Samples  // how often each figure is measured; nil = only the day is played
}

// player is one day being played. It is owned by Play's goroutine.
type player struct {
	Options
	site   *house.Site
	person *house.Person
	eyes   [2]*eyes
	area   image.Rectangle // of a desktop on a box's screen
	report Report
	lost   string  // the code by which box 1 said that the line is lost
	count  int     // the number the background job had reached
	idle   float64 // memory of the gateway before any session, MB
}

// Play plays the day from boot to audit on a house whose boxes are switched off, then measures the figures. The report is
// written even when a step fails; the error then names the step.
func Play(ctx context.Context, site *house.Site, o Options) (*Report, error) {
	p := &player{Options: o, site: site, person: site.People[0], report: Report{Form: string(site.Form())}}
	p.area = viewer.Area(house.ScreenWidth, house.ScreenHeight)
	defer p.close()
	err := p.day(ctx)
	switch {
	case err != nil || o.Samples == nil:
	case site.Form() == house.ImageForm:
		err = p.measureMachines(ctx)
	default:
		err = p.measure(ctx)
	}
	return &p.report, errors.Join(err, p.report.Write(o.Out), p.report.Print(o.Print))
}

// patience is how long a step may take.
func (p *player) patience() time.Duration {
	if p.site.Form() == house.ImageForm {
		return emulatedTimeout
	}
	return stepTimeout
}

func (p *player) close() {
	for _, e := range p.eyes {
		if e != nil {
			_ = e.Close() // only a mapping
		}
	}
}

// day is the story, in order.
func (p *player) day(ctx context.Context) error {
	steps := []struct {
		name, picture string
		box           int
		do            func(context.Context) (time.Duration, error)
	}{
		{"box 1 boots, is attested, tunnel up: ready", "ready", 0, p.boot(0)},
		{"card in: her name, a finger is asked", "card", 0, p.cardIn(0)},
		{"a wrong finger: two tries left", "wrong-finger", 0, p.wrongFinger},
		{"the right finger: her projects", "projects", 0, p.rightFinger(0)},
		{"opens epi: spreadsheet and terminal", "epi", 0, p.openEpi},
		{"types in the terminal and sees it", "typing", 0, p.types},
		{"UDP is blocked: typing goes on, in slow mode", "slow", 0, p.withoutUDP},
		{"UDP is back: slow mode is over", "fast", 0, p.withUDP},
		{"starts a job that counts", "job", 0, p.startJob},
		{"Ctrl+Alt+Right: econ, a plot", "econ", 0, p.switchTo(house.KeyRight, "Consumer prices", "Price index", "durand@econ")},
		{"Ctrl+Alt+Left: back in epi, the job counted on", "epi-again", 0, p.backToJob},
		{"box and bubble show the same pixels (xwd)", "pixels", 0, p.pixels},
		{"card out: black, the work goes on", "card-out", 0, p.cardOut},
		{"box 2 boots where UDP is blocked: ready", "ready-2", 1, p.bootWithoutUDP},
		{"card in at box 2", "card-2", 1, p.cardIn(1)},
		{"finger at box 2: her projects", "projects-2", 1, p.rightFinger(1)},
		{"opens epi at box 2: same desktop, job further on", "epi-2", 1, p.sameDesktop},
		{"an operator sends a message: it stands over the picture", "message", 1, p.message(1)},
		{"an operator cuts: the reason is on the screen", "cut", 1, p.cut},
		{"the audit log verifies offline", "audit", 1, p.audit},
	}
	fmt.Fprintf(p.Print, "\n%3s  %-62s %8s\n", "", "step", "ms")
	for i, s := range steps {
		stepCtx, cancel := context.WithTimeout(ctx, p.patience())
		took, err := s.do(stepCtx)
		cancel()
		if e := p.eyes[s.box]; e != nil {
			err = errors.Join(err, e.save(ctx, filepath.Join(p.Out, fmt.Sprintf("%02d-%s.png", i+1, s.picture))))
		}
		if err != nil {
			fmt.Fprintf(p.Print, "%3d  %-62s   FAILED\n", i+1, s.name)
			return fmt.Errorf("step %d, %s: %w", i+1, s.name, err)
		}
		fmt.Fprintf(p.Print, "%3d  %-62s %8d\n", i+1, s.name, took.Milliseconds())
		p.report.Steps = append(p.report.Steps, Step{Name: s.name, MS: took.Milliseconds()})
	}
	return nil
}

// boot switches a box on and waits until it is ready for a card.
func (p *player) boot(box int) func(context.Context) (time.Duration, error) {
	return func(ctx context.Context) (time.Duration, error) {
		began := time.Now()
		if err := p.site.Boot(ctx, p.site.Boxes[box]); err != nil {
			return 0, err
		}
		e, err := openEyes(ctx, p.site.Boxes[box])
		if err != nil {
			return 0, err
		}
		p.eyes[box] = e
		came, err := e.read(ctx, ready(p.site.Language)...)
		if err == nil && box == 0 {
			p.idle, err = p.site.GatewayProgram.MemoryMB()
		}
		return came.Sub(began), err
	}
}

// cardIn inserts her card and waits until the box asks for her finger by name.
func (p *player) cardIn(box int) func(context.Context) (time.Duration, error) {
	return func(ctx context.Context) (time.Duration, error) {
		began := time.Now()
		if err := p.site.Tray.Insert(ctx, p.person.GUID, p.site.Boxes[box]); err != nil {
			return 0, err
		}
		came, err := p.eyes[box].read(ctx, p.person.Name, "Place your finger")
		return came.Sub(began), err
	}
}

// touch places a finger and returns when it was handed over.
func (p *player) touch(ctx context.Context, box int, f house.Finger) (time.Time, error) {
	impression, err := p.person.Impression(f)
	if err != nil {
		return time.Time{}, err
	}
	return p.site.Boxes[box].Touch(ctx, impression)
}

func (p *player) wrongFinger(ctx context.Context) (time.Duration, error) {
	began, err := p.touch(ctx, 0, house.Wrong)
	if err != nil {
		return 0, err
	}
	came, err := p.eyes[0].read(ctx, "C03", "2 tries left")
	return came.Sub(began), err
}

func (p *player) rightFinger(box int) func(context.Context) (time.Duration, error) {
	return func(ctx context.Context) (time.Duration, error) {
		began, err := p.touch(ctx, box, house.Right)
		if err != nil {
			return 0, err
		}
		words := []string{"Your projects", "P02", "ended on 30 June", "P05", "only be opened from France"}
		for _, b := range p.site.Bubbles {
			words = append(words, b.Title)
		}
		came, err := p.eyes[box].read(ctx, words...)
		return came.Sub(began), err
	}
}

// openEpi picks the first project of the list and waits for the spreadsheet with its data.
func (p *player) openEpi(ctx context.Context) (time.Duration, error) {
	began := time.Now()
	if err := p.press(0, house.Tap(house.KeyEnter)...); err != nil {
		return 0, err
	}
	came, err := p.eyes[0].readIn(ctx, p.desktop(), p.site.Bubbles[0].Title, "incidence_per_100k", "Bretagne", "durand@epi")
	return came.Sub(began), err
}

// desktop are the parts of a screen that say which bubble it shows: the box's bar, the first window, the terminal.
func (p *player) desktop() []image.Rectangle {
	bar := viewer.BarArea(house.ScreenWidth, house.ScreenHeight)
	window := image.Rect(30, 20, 660, 400).Add(p.area.Min)
	return []image.Rectangle{bar, window, house.Terminal().Add(p.area.Min)}
}

func (p *player) press(box int, events ...keys.Raw) error {
	return p.site.Boxes[box].Keyboard.Send(events...)
}

// focusTerminal clicks the terminal's title bar, which is at the same place in every bubble of the lab, and waits until the
// window manager shows that the terminal has the focus: it paints that title bar blue.
func (p *player) focusTerminal(ctx context.Context, box int) error {
	at := p.area.Min.Add(house.TerminalTitle())
	x, y := int32(at.X*keys.AbsMax/(house.ScreenWidth-1)), int32(at.Y*keys.AbsMax/(house.ScreenHeight-1))
	events := append(keys.Move(x, y), keys.Button(keys.Left, true)...)
	events = append(events, keys.Button(keys.Left, false)...)
	if err := p.press(box, events...); err != nil {
		return err
	}
	_, err := p.eyes[box].await(ctx, func(img *screen.Image) bool {
		c := img.RGBAAt(at.X-300, at.Y)
		return int(c.B) > int(c.R)+20
	})
	if err != nil {
		return fmt.Errorf("give the terminal the focus: %w", err)
	}
	return nil
}

// types has the shell compute something, so that the answer on the screen cannot be an echo of the keys.
func (p *player) types(ctx context.Context) (time.Duration, error) {
	began := time.Now()
	if err := p.focusTerminal(ctx, 0); err != nil {
		return 0, err
	}
	if err := p.enter(0, "echo Result $((1234*5678))\n"); err != nil {
		return 0, err
	}
	came, err := p.eyes[0].readIn(ctx, p.terminal(), "Result 7006652")
	return came.Sub(began), err
}

func (p *player) enter(box int, text string) error {
	events, err := house.Typing(text)
	if err != nil {
		return err
	}
	return p.press(box, events...)
}

// terminal is the part of a screen where the desktop's terminal is.
func (p *player) terminal() []image.Rectangle {
	return []image.Rectangle{house.Terminal().Add(p.area.Min)}
}

func (p *player) startJob(ctx context.Context) (time.Duration, error) {
	began := time.Now()
	if err := p.enter(0, "clear; n=100; while sleep 1; do n=$((n+1)); echo \"job $n\"; done\n"); err != nil {
		return 0, err
	}
	count, came, err := p.readJob(ctx, 0, 101)
	p.count = count
	return came.Sub(began), err
}

// readJob waits until the background job has counted to at least this, and returns how far it is.
func (p *player) readJob(ctx context.Context, box, atLeast int) (count int, came time.Time, err error) {
	number := regexp.MustCompile(`(?i)job\s*(\d{3})`)
	came, _, err = p.eyes[box].readUntil(ctx, p.terminal(), func(text string) bool {
		for _, found := range number.FindAllStringSubmatch(text, -1) {
			if n, err := strconv.Atoi(found[1]); err == nil && n >= atLeast && n < atLeast+500 {
				count = max(count, n)
			}
		}
		return count > 0
	})
	if err != nil {
		return 0, came, fmt.Errorf("read the job's count, at least %d: %w", atLeast, err)
	}
	return count, came, nil
}

// switchTo presses Ctrl+Alt and an arrow, and waits for words of the other bubble.
func (p *player) switchTo(arrow uint16, words ...string) func(context.Context) (time.Duration, error) {
	return func(ctx context.Context) (time.Duration, error) {
		began := time.Now()
		if err := p.press(0, house.Chord(house.KeyLeftCtrl, house.KeyLeftAlt, arrow)...); err != nil {
			return 0, err
		}
		came, err := p.eyes[0].readIn(ctx, p.desktop(), words...)
		return came.Sub(began), err
	}
}

func (p *player) backToJob(ctx context.Context) (time.Duration, error) {
	took, err := p.switchTo(house.KeyLeft, p.site.Bubbles[0].Title, "incidence_per_100k")(ctx)
	if err != nil {
		return 0, err
	}
	p.count, _, err = p.readJob(ctx, 0, p.count+1)
	return took, err
}

// cardOut pulls the card and waits for the black screen, then for what it says.
func (p *player) cardOut(ctx context.Context) (time.Duration, error) {
	began := time.Now()
	if err := p.site.Tray.Eject(p.person.GUID); err != nil {
		return 0, err
	}
	came, err := p.eyes[0].await(ctx, dark)
	if err != nil {
		return 0, err
	}
	_, err = p.eyes[0].read(ctx, "Your work goes on", "Insert your card to come back")
	return came.Sub(began), err
}

// dark says whether a screen is black but for one line of words.
func dark(img *screen.Image) bool { return black(img, 985) }

// sameDesktop opens epi at the second box: the desktop is the one left at the first, its job further on.
func (p *player) sameDesktop(ctx context.Context) (time.Duration, error) {
	began := time.Now()
	if err := p.press(1, house.Tap(house.KeyEnter)...); err != nil {
		return 0, err
	}
	came, err := p.eyes[1].readIn(ctx, p.desktop(), p.site.Bubbles[0].Title, "incidence_per_100k")
	if err != nil {
		return 0, err
	}
	p.count, _, err = p.readJob(ctx, 1, p.count+1)
	return came.Sub(began), err
}

// cutReason is what the operator writes and the person must read.
const cutReason = "Training session ended early"

func (p *player) cut(ctx context.Context) (time.Duration, error) {
	session, err := p.session(ctx, p.site.Boxes[1])
	if err != nil {
		return 0, err
	}
	began := time.Now()
	if _, err := p.site.Ctl(ctx, "cut", session.ID, "--reason", cutReason); err != nil {
		return 0, err
	}
	came, err := p.eyes[1].read(ctx, "S04", cutReason)
	return came.Sub(began), err
}

// audit exports the log and verifies it with a program that does not ask the gateway.
func (p *player) audit(ctx context.Context) (time.Duration, error) {
	began := time.Now()
	err := p.site.VerifyAudit(ctx)
	p.report.AuditVerified = err == nil
	return time.Since(began), err
}
