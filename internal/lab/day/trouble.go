// SPDX-License-Identifier: Apache-2.0

package day

import (
	"context"
	"errors"
	"fmt"
	"image"
	"path/filepath"
	"time"

	"sdbox/agent/viewer"
	"sdbox/internal/lab/house"
	labnet "sdbox/internal/lab/net"
)

// The keys of trouble.
const keyUp, keyDown, keyDelete = house.KeyUp, house.KeyDown, 111

// Trouble plays what goes wrong in a session on a house whose boxes are switched off: the gateway and a bubble killed, a desktop
// gone, a message, the end of a desktop. What the person reads is read from the pixels of the screen. The steps are returned as far as
// they went.
func Trouble(ctx context.Context, site *house.Site, o Options) ([]Step, error) {
	p := &player{Options: o, site: site, person: site.People[0]}
	p.area = viewer.Area(house.ScreenWidth, house.ScreenHeight)
	defer p.close()
	for i, s := range []struct {
		name string
		do   func(context.Context) (time.Duration, error)
	}{
		{"box boots: ready", p.boot(0)},
		{"card in", p.cardIn(0)},
		{"finger: her projects", p.rightFinger(0)},
		{"opens epi", p.openEpi},
		{"types in the terminal", p.types},
		{"starts a job that counts", p.startJob},
		{"gateway killed: connection lost", p.killGateway},
		{"gateway back: the same desktop without a finger, the job counted on", p.gatewayBack},
		{"the box's link unplugged for two seconds: connection lost, and back", p.blink},
		{"for eight: connection lost", p.unplugLong},
		{"plugged in: the same desktop without a finger, the job counted on", p.plugIn},
		{"message over the picture", p.message(0)},
		{"read: the message is gone", p.messageRead},
		{"bubble's program killed: the list says so", p.killBubble},
		{"another bubble opens", p.openSecond},
		{"back at the list", p.backToList},
		{"bubble's program back: the same desktop, the job counted on", p.bubbleBack},
		{"desktop killed: the list says so", p.killDesktop},
		{"it starts anew: a new desktop", p.newDesktop},
		{"back at the list", p.backToList},
		{"Delete: shall it end?", p.askEnd},
		{"Enter: it has ended", p.end},
		{"the audit log verifies offline", p.audit},
	} {
		stepCtx, cancel := context.WithTimeout(ctx, stepTimeout)
		took, err := s.do(stepCtx)
		cancel()
		if e := p.eyes[0]; e != nil && o.Out != "" {
			err = errors.Join(err, e.save(ctx, filepath.Join(p.Out, fmt.Sprintf("trouble-%02d.png", i+1))))
		}
		if err != nil {
			return p.report.Steps, fmt.Errorf("%s: %w", s.name, err)
		}
		took = max(took, 0) // when a picture came is known to a millisecond
		fmt.Fprintf(p.Print, "%3d  %-70s %8d\n", i+1, s.name, took.Milliseconds())
		p.report.Steps = append(p.report.Steps, Step{Name: s.name, MS: took.Milliseconds()})
	}
	return p.report.Steps, nil
}

func (p *player) since(ctx context.Context, began time.Time, words ...string) (time.Duration, error) {
	came, err := p.eyes[0].read(ctx, words...)
	return came.Sub(began), err
}

func (p *player) killGateway(ctx context.Context) (time.Duration, error) {
	began := time.Now()
	if err := p.site.GatewayProgram.Kill(); err != nil {
		return 0, err
	}
	return p.said(ctx, began)
}

// said waits for the words that the connection is lost.
func (p *player) said(ctx context.Context, began time.Time) (time.Duration, error) {
	took, err := p.since(ctx, began, "Connection lost", "Your work goes on", "G03")
	if err == nil && took > 2500*time.Millisecond { // two seconds of silence, and the time a machine needs to read a picture
		err = fmt.Errorf("the screen said so after %v only", took)
	}
	return took, err
}

func (p *player) gatewayBack(ctx context.Context) (time.Duration, error) {
	began := time.Now()
	if err := p.site.ReturnGateway(ctx); err != nil {
		return 0, err
	}
	return p.jobGoesOn(ctx, began)
}

// jobGoesOn waits until the screen shows epi again, with the job further on than it was last seen.
func (p *player) jobGoesOn(ctx context.Context, began time.Time) (time.Duration, error) {
	came, err := p.eyes[0].readIn(ctx, p.desktop(), p.site.Bubbles[0].Title, "incidence_per_100k")
	if err != nil {
		return 0, err
	}
	p.count, _, err = p.readJob(ctx, 0, p.count+1)
	return came.Sub(began), err
}

// blink is a short loss of the link: the line itself stands, and the picture goes on by itself.
func (p *player) blink(ctx context.Context) (time.Duration, error) {
	if _, err := p.unplug(ctx); err != nil {
		return 0, err
	}
	return p.plugIn(ctx)
}

// unplug takes the box's network away until the screen says so.
func (p *player) unplug(ctx context.Context) (time.Duration, error) {
	began := time.Now()
	if err := p.site.Boxes[0].Link.Set(labnet.Conditions{Unplugged: true}); err != nil {
		return 0, err
	}
	return p.said(ctx, began)
}

// unplugLong does so until the box has given its line up.
func (p *player) unplugLong(ctx context.Context) (time.Duration, error) {
	took, err := p.unplug(ctx)
	if err != nil {
		return 0, err
	}
	gone := time.NewTimer(8*time.Second - took)
	defer gone.Stop()
	select {
	case <-gone.C:
		return took, nil
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

// plugIn gives the network back.
func (p *player) plugIn(ctx context.Context) (time.Duration, error) {
	began := time.Now()
	if err := p.site.Boxes[0].Link.Set(labnet.Conditions{}); err != nil {
		return 0, err
	}
	return p.jobGoesOn(ctx, began)
}

const told = "Please save your work before noon"

func (p *player) message(box int) func(context.Context) (time.Duration, error) {
	return func(ctx context.Context) (time.Duration, error) {
		session, err := p.session(ctx, p.site.Boxes[box])
		if err != nil {
			return 0, err
		}
		began := time.Now()
		if _, err := p.site.Ctl(ctx, "message", session.ID, "--text", told); err != nil {
			return 0, err
		}
		came, err := p.eyes[box].readIn(ctx, []image.Rectangle{p.noteArea()}, "Message from the centre", told)
		return came.Sub(began), err
	}
}

// noteArea is where a message stands.
func (p *player) noteArea() image.Rectangle { return image.Rect(364, 60, 1556, 240) }

func (p *player) messageRead(ctx context.Context) (time.Duration, error) {
	began := time.Now()
	if err := p.press(0, house.Chord(house.KeyLeftCtrl, house.KeyLeftAlt, keyDown)...); err != nil {
		return 0, err
	}
	came, _, err := p.eyes[0].readUntil(ctx, []image.Rectangle{p.noteArea()}, func(text string) bool { return !holds(text, []string{told}) })
	return came.Sub(began), err
}

func (p *player) killBubble(ctx context.Context) (time.Duration, error) {
	began := time.Now()
	if err := p.site.Bubbles[0].Program.Kill(); err != nil {
		return 0, err
	}
	return p.since(ctx, began, "Your projects", "being repaired", "U02")
}

func (p *player) openSecond(ctx context.Context) (time.Duration, error) {
	began := time.Now()
	if err := p.press(0, house.Tap(house.KeyEnter)...); err != nil { // epi, which is down
		return 0, err
	}
	if _, err := p.since(ctx, began, "Your projects", "U02"); err != nil {
		return 0, err
	}
	began = time.Now()
	if err := p.press(0, append(house.Tap(keyDown), house.Tap(house.KeyEnter)...)...); err != nil {
		return 0, err
	}
	came, err := p.eyes[0].readIn(ctx, p.desktop(), p.site.Bubbles[1].Title, "Price index", "durand@econ")
	return came.Sub(began), err
}

func (p *player) backToList(ctx context.Context) (time.Duration, error) {
	began := time.Now()
	if err := p.press(0, house.Chord(house.KeyLeftCtrl, house.KeyLeftAlt, keyUp)...); err != nil {
		return 0, err
	}
	return p.since(ctx, began, "Your projects", p.site.Bubbles[0].Title)
}

func (p *player) bubbleBack(ctx context.Context) (time.Duration, error) {
	if err := p.site.Bubbles[0].Return(ctx); err != nil {
		return 0, err
	}
	began := time.Now()
	if err := p.press(0, append(house.Tap(keyUp), house.Tap(house.KeyEnter)...)...); err != nil {
		return 0, err
	}
	return p.jobGoesOn(ctx, began)
}

func (p *player) killDesktop(ctx context.Context) (time.Duration, error) {
	began := time.Now()
	if err := p.site.Bubbles[0].KillDesktop(ctx, p.person); err != nil {
		return 0, err
	}
	return p.since(ctx, began, "Your projects", "being repaired", "U02")
}

func (p *player) newDesktop(ctx context.Context) (time.Duration, error) {
	began := time.Now()
	if err := p.press(0, house.Tap(house.KeyEnter)...); err != nil {
		return 0, err
	}
	came, err := p.eyes[0].readIn(ctx, p.desktop(), p.site.Bubbles[0].Title, "incidence_per_100k", "durand@epi")
	return came.Sub(began), err
}

func (p *player) askEnd(ctx context.Context) (time.Duration, error) {
	began := time.Now()
	if err := p.press(0, house.Tap(keyDelete)...); err != nil {
		return 0, err
	}
	return p.since(ctx, began, "End your desktop in this project?", "keep it")
}

func (p *player) end(ctx context.Context) (time.Duration, error) {
	began := time.Now()
	if err := p.press(0, house.Tap(house.KeyEnter)...); err != nil {
		return 0, err
	}
	return p.since(ctx, began, "Your projects", "Asleep")
}
