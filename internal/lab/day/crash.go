// SPDX-License-Identifier: Apache-2.0

package day

import (
	"context"
	"errors"
	"fmt"
	"time"

	"sdbox/agent/viewer"
	"sdbox/internal/lab/house"
)

// safeWithin is how long a picture may stand on the screen of a box whose agent has ended, and the words to be read, on a machine that
// is emulated.
const safeWithin = 5 * time.Second

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

func (p *player) killAgent(ctx context.Context) (time.Duration, error) {
	began := time.Now()
	if err := p.site.Boxes[0].Drill("kill agent"); err != nil {
		return 0, err
	}
	took, err := p.since(ctx, began, "Your work goes on")
	if err == nil && took > safeWithin {
		err = fmt.Errorf("the screen said so after %v only", took)
	}
	return took, err
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
