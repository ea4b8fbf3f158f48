// SPDX-License-Identifier: Apache-2.0

package day

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"sdbox/agent/screen"
	"sdbox/agent/viewer"
	"sdbox/internal/lab/house"
)

// safeWithin is how long a picture may stand on the screen of a box whose agent has ended, on a machine that is emulated.
const safeWithin = 5 * time.Second

// What killAgent looks at: a row of the bar, by which it knows whose picture it is, and how many pictures it keeps.
const (
	barRow       = 10
	keptPictures = 8
)

// Crashes plays a session in a house whose boxes are machines of the form dev: the agent, then the card daemon, are killed in it.
func Crashes(ctx context.Context, site *house.Site, o Options) ([]Step, error) {
	p := &player{Options: o, site: site, person: site.People[0]}
	p.area = viewer.Area(house.ScreenWidth, house.ScreenHeight)
	defer p.close()
	return p.play(ctx, "crashes", []step{
		{"box boots: ready", 0, p.boot(0)},
		{"card in", 0, p.cardIn(0)},
		{"finger: her projects", 0, p.rightFinger(0)},
		{"opens epi", 0, p.openEpi},
		{"types in the terminal", 0, p.types},
		{"starts a job that counts", 0, p.startJob},
		{"agent killed: the picture is gone, and her work goes on", 0, p.killAgent},
		{"the next agent: the same desktop without a finger, the job counted on", 0, p.agentBack},
		{"card daemon killed: nobody knows whether the card stayed, her finger is asked", 0, p.killCardDaemon},
	})
}

// killAgent kills the agent and finds the safe screen among the pictures until her desktop is back. It may stand for less time than it takes
// to be read, so the pictures are kept and read afterwards.
func (p *player) killAgent(ctx context.Context) (time.Duration, error) {
	e := p.eyes[0]
	if err := e.watcher.Now(ctx); err != nil {
		return 0, err
	}
	bar := bytes.Clone(e.watcher.Image.Row(barRow, 0, house.ScreenWidth/4))
	began := time.Now()
	if err := p.site.Boxes[0].Drill("kill agent"); err != nil {
		return 0, err
	}
	var first time.Time
	var seen []*screen.Image
	for len(seen) < keptPictures {
		if err := e.watcher.Next(ctx); err != nil {
			return 0, err
		}
		if bytes.Equal(bar, e.watcher.Image.Row(barRow, 0, house.ScreenWidth/4)) {
			if len(seen) > 0 {
				break // she works again
			}
			continue
		}
		if first.IsZero() {
			first = time.Now()
		}
		kept := screen.NewImage(house.ScreenWidth, house.ScreenHeight)
		kept.Copy(e.watcher.Image, kept.Bounds())
		seen = append(seen, kept)
	}
	took := first.Sub(began)
	if took > safeWithin {
		return took, fmt.Errorf("the picture was gone after %v only", took)
	}
	var read []string
	for _, picture := range seen {
		text, err := recognise(ctx, picture)
		if err != nil {
			return took, err
		}
		if holds(text, []string{"Your work goes on"}) {
			return took, nil
		}
		read = append(read, text)
	}
	return took, fmt.Errorf("no safe screen among %d pictures, which say %q", len(seen), read)
}

func (p *player) agentBack(ctx context.Context) (time.Duration, error) {
	took, err := p.jobGoesOn(ctx, time.Now())
	if err != nil {
		return 0, err
	}
	session, err := p.session(ctx, p.site.Boxes[0])
	if err == nil && session.Person == "" {
		err = errors.New("the centre knows no session of hers")
	}
	return took, err
}

func (p *player) killCardDaemon(ctx context.Context) (time.Duration, error) {
	began := time.Now()
	if err := p.site.Boxes[0].Drill("kill card"); err != nil {
		return 0, err
	}
	return p.since(ctx, began, "Place your finger")
}
