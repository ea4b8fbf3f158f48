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
	"sdbox/internal/ident"
	"sdbox/internal/lab/house"
	labnet "sdbox/internal/lab/net"
	"sdbox/internal/refusal"
)

// ready is the screen that waits for a card, in the language of a site.
func ready(l refusal.Lang) []string {
	if l == refusal.French {
		return []string{"Prêt", "Insérez votre carte", "Blanc", "A00"}
	}
	return []string{"Ready", "Insert your card", "White", "A00"}
}

// refusals is what Refusals needs from one step to a later one.
type refusals struct {
	*player
	ends   time.Time // of the certificate of ending
	ending ident.GUID
	silent string // the code by which box 1 said that the centre does not answer
}

// Refusals forces the codes that Trouble has not, on the house that Trouble leaves: box 1 shows its first person her list. The site
// speaks French, she English. Words and code are read from the pixels; the code must be in the box's log, and found by sdboxctl why.
func Refusals(ctx context.Context, site *house.Site, o Options) ([]Step, error) {
	r := &refusals{player: &player{Options: o, site: site, person: site.People[0]}}
	r.area = viewer.Area(house.ScreenWidth, house.ScreenHeight)
	defer r.close()
	var err error
	if r.eyes[0], err = openEyes(ctx, site.Boxes[0]); err != nil {
		return nil, err
	}
	return r.play(ctx, "refusals", []step{
		{"a project that ended, one not allowed from here: P02, P05", 0, r.list},
		{"UDP is blocked: N08, and her list stays", 0, r.slowMode},
		{"a bubble takes its time: U01", 0, r.starting},
		{"box 2 boots: A00, in the site's language", 1, r.boot(1)},
		{"box 1 is cut off, the card moves to box 2; a wrong finger there: C03, in hers", 1, r.move},
		{"her desktop is still open at box 1: S06", 1, r.elsewhere},
		{"an operator cuts: S04", 1, r.cutHere},
		{"box 2 boots with another boot loader: B03", 1, r.tampered},
		{"box 1 gets no answer: G01", 0, r.noAnswer},
		{"plugged in again: ready, and G01 is known", 0, r.answer},
		{"a card that is no PIV card: C01", 0, r.purse},
		{"a card with her certificates and other keys: C02", 0, r.forged},
		{"a card of another house: C02", 0, r.foreign},
		{"a person of the site's language; one wrong finger: C03", 0, r.wrong(2)},
		{"a second: C03", 0, r.wrong(1)},
		{"a third: C05", 0, r.locked},
		{"a cancelled card: C12", 0, r.revoked},
		{"a card that ended: C11", 0, r.ended},
		{"the audit log verifies offline", 0, r.audit},
	})
}

// list reads both codes of the list's rows.
func (r *refusals) list(ctx context.Context) (time.Duration, error) {
	began := time.Now()
	if err := r.refuses(ctx, 0, refusal.ProjectEnded, "Your projects", "ended on 30 June", "Ask for an extension"); err != nil {
		return 0, err
	}
	if err := r.refuses(ctx, 0, refusal.NotFromHere, "only be opened from France", "Use a box there"); err != nil {
		return 0, err
	}
	return time.Since(began), nil
}

// slowMode reads what stands under the list while the tunnel goes by TLS.
func (r *refusals) slowMode(ctx context.Context) (time.Duration, error) {
	began, err := r.blockUDP(0, true)
	if err != nil {
		return 0, err
	}
	foot := image.Rect(0, 1030, house.ScreenWidth, house.ScreenHeight)
	came, err := r.eyes[0].readIn(ctx, []image.Rectangle{foot}, "Connected in slow mode", "UDP is blocked here", "Ask your IT team", "N08")
	if err != nil {
		return 0, err
	}
	read, err := r.readCode(ctx, 0, refusal.SlowMode, foot)
	if err != nil {
		return 0, err
	}
	_, back := r.blockUDP(0, false)
	return came.Sub(began), errors.Join(r.known(ctx, read), back)
}

// starting opens a desktop that does not run in a bubble that hangs for a while.
func (r *refusals) starting(ctx context.Context) (_ time.Duration, err error) {
	began, bubble := time.Now(), r.site.Bubbles[0]
	if err := bubble.Program.Freeze(); err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, bubble.Program.Thaw()) }()
	if err := r.press(0, house.Tap(house.KeyEnter)...); err != nil {
		return 0, err
	}
	if err := r.refuses(ctx, 0, refusal.BubbleStarting, bubble.Title, "is starting", "it opens by itself"); err != nil {
		return 0, err
	}
	if err := bubble.Program.Thaw(); err != nil {
		return 0, err
	}
	came, err := r.eyes[0].readIn(ctx, r.desktop(), bubble.Title, "incidence_per_100k", "durand@epi")
	return came.Sub(began), err
}

// move takes the card to box 2 while box 1 cannot tell that it left.
func (r *refusals) move(ctx context.Context) (time.Duration, error) {
	if err := r.site.Boxes[0].SetLink(ctx, labnet.Conditions{Unplugged: true}); err != nil {
		return 0, err
	}
	if err := r.site.Tray.Eject(r.person.GUID); err != nil {
		return 0, err
	}
	if _, err := r.cardIn(1)(ctx); err != nil {
		return 0, err
	}
	began, err := r.touch(ctx, 1, house.Wrong)
	if err != nil {
		return 0, err
	}
	err = r.refuses(ctx, 1, refusal.WrongFinger, "This finger was not recognised", "2 tries left", "Try again")
	return time.Since(began), err
}

// elsewhere brings the desktop to box 2.
func (r *refusals) elsewhere(ctx context.Context) (time.Duration, error) {
	began, err := r.touch(ctx, 1, house.Right)
	if err != nil {
		return 0, err
	}
	err = r.refuses(ctx, 1, refusal.OpenElsewhere, "Your desktop is open on box "+r.site.Boxes[0].Serial, "Bring it here", "Press Enter")
	if err != nil {
		return 0, err
	}
	took := time.Since(began)
	if err := r.press(1, house.Tap(house.KeyEnter)...); err != nil {
		return 0, err
	}
	_, err = r.eyes[1].read(ctx, "Your projects", "Open: your desktop is running")
	return took, err
}

// noAnswer reads the code of box 1, which nobody can be told of yet.
func (r *refusals) noAnswer(ctx context.Context) (time.Duration, error) {
	began := time.Now()
	came, err := r.eyes[0].read(ctx, "Connexion au centre", "Le centre ne répond pas", "Patientez", "Support")
	if err != nil {
		return 0, err
	}
	r.silent, err = r.readCode(ctx, 0, refusal.CentreSilent, codeArea())
	return came.Sub(began), err
}

func (r *refusals) answer(ctx context.Context) (time.Duration, error) {
	began := time.Now()
	if err := r.site.Boxes[0].SetLink(ctx, labnet.Conditions{}); err != nil {
		return 0, err
	}
	came, err := r.eyes[0].read(ctx, ready(r.site.Language)...)
	if err != nil {
		return 0, err
	}
	return came.Sub(began), r.known(ctx, r.silent)
}

func (r *refusals) cutHere(ctx context.Context) (time.Duration, error) {
	took, err := r.cut(ctx)
	if err != nil {
		return 0, err
	}
	if err := r.refuses(ctx, 1, refusal.CutByOperator, "A supervisor ended this session", cutReason, "Take your card out"); err != nil {
		return 0, err
	}
	return took, r.site.Tray.Eject(r.person.GUID)
}

// turnedAway puts a card into box 1, wants it refused by a code with words and whom to call, and takes it out again.
func (r *refusals) turnedAway(ctx context.Context, guid ident.GUID, code refusal.Code, words ...string) (time.Duration, error) {
	began := time.Now()
	if err := r.site.Tray.Insert(ctx, guid, r.site.Boxes[0]); err != nil {
		return 0, err
	}
	if err := r.refuses(ctx, 0, code, append(words, "Que faire", "Support")...); err != nil {
		return 0, err
	}
	return time.Since(began), r.takeOut(ctx, guid)
}

// takeOut pulls a card out of box 1 and waits until it is ready for the next.
func (r *refusals) takeOut(ctx context.Context, guid ident.GUID) error {
	if err := r.site.Tray.Eject(guid); err != nil {
		return err
	}
	_, err := r.eyes[0].read(ctx, ready(r.site.Language)...)
	return err
}

func (r *refusals) purse(ctx context.Context) (time.Duration, error) {
	guid, err := r.site.PurseCard()
	if err != nil {
		return 0, err
	}
	return r.turnedAway(ctx, guid, refusal.CardUnreadable, "Carte illisible", "Retournez-la")
}

func (r *refusals) forged(ctx context.Context) (time.Duration, error) {
	guid, err := r.site.ForgedCard(r.site.People[1])
	if err != nil {
		return 0, err
	}
	return r.turnedAway(ctx, guid, refusal.CardForeign, "Cette carte n'est pas de ce centre", "Utilisez la vôtre")
}

// foreign also makes the card that has ended when its turn comes.
func (r *refusals) foreign(ctx context.Context) (time.Duration, error) {
	var err error
	r.ends = time.Now().Add(4 * time.Second)
	if r.ending, err = r.site.EndingCard(ctx, r.ends); err != nil {
		return 0, err
	}
	guid, err := r.site.ForeignCard(ctx)
	if err != nil {
		return 0, err
	}
	return r.turnedAway(ctx, guid, refusal.CardForeign, "Cette carte n'est pas de ce centre", "Utilisez la vôtre")
}

// wrong places a finger that is not enrolled; after it the card grants so many more.
func (r *refusals) wrong(left int) func(context.Context) (time.Duration, error) {
	return func(ctx context.Context) (time.Duration, error) {
		r.person = r.site.People[1]
		said := "Encore 1 essai"
		if left > 1 {
			said = fmt.Sprintf("Encore %d essais", left)
			if err := r.site.Tray.Insert(ctx, r.person.GUID, r.site.Boxes[0]); err != nil {
				return 0, err
			}
			if _, err := r.eyes[0].read(ctx, r.person.Name, "Posez votre doigt"); err != nil {
				return 0, err
			}
		}
		began, err := r.touch(ctx, 0, house.Wrong)
		if err != nil {
			return 0, err
		}
		err = r.refuses(ctx, 0, refusal.WrongFinger, "Doigt non reconnu", said, "Réessayez")
		return time.Since(began), err
	}
}

func (r *refusals) locked(ctx context.Context) (time.Duration, error) {
	began, err := r.touch(ctx, 0, house.Wrong)
	if err != nil {
		return 0, err
	}
	if err := r.refuses(ctx, 0, refusal.CardLocked, "Carte verrouillée pour votre sécurité", "Appelez le support", "Rouge"); err != nil {
		return 0, err
	}
	return time.Since(began), r.takeOut(ctx, r.person.GUID)
}

func (r *refusals) revoked(ctx context.Context) (time.Duration, error) {
	if _, err := r.site.Ctl(ctx, "card", "revoke", r.person.GUID.String(), "--reason", "lost on a train"); err != nil {
		return 0, err
	}
	return r.turnedAway(ctx, r.person.GUID, refusal.CardRevoked, "Carte annulée le", refusal.Day(refusal.French, time.Now().UTC()), "Elle n'ouvre plus rien", "Rouge")
}

func (r *refusals) ended(ctx context.Context) (time.Duration, error) {
	over := time.NewTimer(time.Until(r.ends) + time.Second)
	defer over.Stop()
	select {
	case <-over.C:
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	return r.turnedAway(ctx, r.ending, refusal.CardEnded, "Votre carte a expiré le", refusal.Day(refusal.French, r.ends.UTC()), "Contactez le support", "Rouge")
}

// tampered boots box 2 with a measurement more.
func (r *refusals) tampered(ctx context.Context) (time.Duration, error) {
	box := r.site.Boxes[1]
	if err := errors.Join(box.SwitchOff(), r.eyes[1].Close()); err != nil {
		return 0, err
	}
	r.eyes[1] = nil
	if err := r.site.Tamper(box); err != nil {
		return 0, err
	}
	began := time.Now()
	if err := r.site.Boot(ctx, box); err != nil {
		return 0, err
	}
	var err error
	if r.eyes[1], err = openEyes(ctx, box); err != nil {
		return 0, err
	}
	err = r.refuses(ctx, 1, refusal.NotIntact, "ne peut pas prouver", "il reste ferm", "Appelez le support", "Rouge")
	return time.Since(began), err
}

// step is one thing that happens, and the box whose screen shows it.
type step struct {
	name string
	box  int
	do   func(context.Context) (time.Duration, error)
}

// play takes steps one by one, with a picture of each where they are wanted. It returns those that it took.
func (p *player) play(ctx context.Context, name string, steps []step) ([]Step, error) {
	for i, s := range steps {
		stepCtx, cancel := context.WithTimeout(ctx, p.patience())
		took, err := s.do(stepCtx)
		cancel()
		if e := p.eyes[s.box]; e != nil && p.Out != "" {
			err = errors.Join(err, e.save(ctx, filepath.Join(p.Out, fmt.Sprintf("%s-%02d.png", name, i+1))))
		}
		if err != nil {
			return p.report.Steps, fmt.Errorf("%s: %w", s.name, err)
		}
		took = max(took, 0) // when a picture came is known to a millisecond
		fmt.Fprintf(p.Print, "%3d  %-78s %8d\n", i+1, s.name, took.Milliseconds())
		p.report.Steps = append(p.report.Steps, Step{Name: s.name, MS: took.Milliseconds()})
	}
	return p.report.Steps, nil
}
