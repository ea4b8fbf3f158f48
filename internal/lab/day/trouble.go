// SPDX-License-Identifier: Apache-2.0

package day

import (
	"context"
	"errors"
	"fmt"
	"image"
	"time"

	"sdbox/agent/viewer"
	"sdbox/internal/lab/house"
	labnet "sdbox/internal/lab/net"
	"sdbox/internal/refusal"
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
	return p.play(ctx, "trouble", []step{
		{"box boots: ready", 0, p.boot(0)},
		{"card in", 0, p.cardIn(0)},
		{"finger: her projects", 0, p.rightFinger(0)},
		{"opens epi", 0, p.openEpi},
		{"types in the terminal", 0, p.types},
		{"starts a job that counts", 0, p.startJob},
		{"gateway killed: connection lost", 0, p.killGateway},
		{"gateway back: the same desktop without a finger, the job counted on", 0, p.gatewayBack},
		{"the box's link unplugged for two seconds: connection lost, and back", 0, p.blink},
		{"for eight: connection lost", 0, p.unplugLong},
		{"plugged in: the same desktop without a finger, the job counted on", 0, p.plugIn},
		{"message over the picture", 0, p.message(0)},
		{"read: the message is gone", 0, p.messageRead},
		{"bubble's program killed: the list says so", 0, p.killBubble},
		{"another bubble opens", 0, p.openSecond},
		{"back at the list", 0, p.backToList},
		{"bubble's program back: the same desktop, the job counted on", 0, p.bubbleBack},
		{"desktop killed: the list says so", 0, p.killDesktop},
		{"it starts anew: a new desktop", 0, p.newDesktop},
		{"back at the list", 0, p.backToList},
		{"Delete: shall it end?", 0, p.askEnd},
		{"Enter: it has ended", 0, p.end},
	})
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
	took, err := p.said(ctx, began)
	if err != nil {
		return 0, err
	}
	p.lost, err = p.readCode(ctx, 0, refusal.LinkLost, codeArea())
	return took, err
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
	took, err := p.jobGoesOn(ctx, began)
	return took, errors.Join(err, p.known(ctx, p.lost))
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
	if err := p.site.Boxes[0].SetLink(ctx, labnet.Conditions{Unplugged: true}); err != nil {
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
	if err := p.site.Boxes[0].SetLink(ctx, labnet.Conditions{}); err != nil {
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
	err := p.refuses(ctx, 0, refusal.BubbleDown, "Your projects", "being repaired", "Open another project")
	return time.Since(began), err
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
