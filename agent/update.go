// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strconv"
	"sync/atomic"
	"time"

	"sdbox/agent/boot"
	"sdbox/agent/kiosk"
	"sdbox/firmware/release"
	"sdbox/internal/refusal"
	"sdbox/internal/wire"
)

// Times of an update (implementation).
const (
	fetchLimit  = 25 * time.Minute // for one file; PID 1 waits 30
	fetchQuiet  = 30 * time.Second // a gateway that sends nothing for so long has gone
	updateAgain = 10 * time.Minute // after one that failed
	trialTime   = 2 * time.Minute  // a release on trial is found good or gone by then

	maxFailures = 3 // of one release, until it is offered no more by this agent
	spanStep    = 5 // seconds: the rest is shown in such steps
	maxChunk    = 64 << 10
)

// offer is a release that the centre says this box should run, and the way to its files.
type offer struct {
	note []byte
	dial func(ctx context.Context, certified bool) (*tls.Conn, error)
}

// offered hands the loop what a gateway offers: with the lease, or with a refusal.
func (l *link) offered(ctx context.Context, address string, certificate *tls.Certificate, lease *wire.Lease, err error) {
	var note []byte
	var refused errRefused
	switch {
	case err == nil && lease != nil:
		note = lease.Release
	case errors.As(err, &refused):
		note = refused.refused.Release
	}
	if len(note) == 0 {
		return
	}
	l.tell(ctx, linkEvent{offer: &offer{note: note, dial: func(ctx context.Context, certified bool) (*tls.Conn, error) {
		if !certified {
			return l.dial(ctx, address, wire.ReleaseProtocol, nil)
		}
		return l.dial(ctx, address, wire.ReleaseProtocol, certificate)
	}}})
}

// updating is the box's way to another release. It belongs to the loop. Nothing here is believed: PID 1 verifies the note and the file
// anew, and it alone writes.
type updating struct {
	system  *boot.System // what runs; nil until PID 1 says
	offer   *offer       // the newest; nil = none, or done with
	job     *job         // nil = none is at work
	ready   string       // the version that the next start tries; "" = none
	after   time.Time    // no job begins before
	full    bool         // the delta did not apply: the next job takes the full file
	failing [32]byte     // SHA-256 of the note of the last one that failed
	fails   int          // how often
	healthy map[boot.Part]bool
}

// job is one update at work: first the file comes, then PID 1 writes it.
type job struct {
	release release.Release
	file    release.Digest
	offer   *offer
	said    refusal.Refusal
	begun   time.Time
	cancel  context.CancelFunc // of the fetch
	ended   chan error         // of the fetch; one
	dropped bool               // somebody came to work

	fetched     bool // PID 1 has every byte
	got         atomic.Int64
	done, total int64 // PID 1's
}

// idle says whether nobody is at work, nor is about to be. A box that is closed has nobody's card to read.
func (a *Agent) idle() bool {
	return a.state == Closed || a.reader == "" && (a.state == Ready || a.state == Connecting)
}

// onRelease takes an offer; stepUpdate takes it up.
func (a *Agent) onRelease(o *offer) {
	u := &a.update
	if a.cfg.Boot == nil || a.cfg.Releases == nil || u.fails >= maxFailures && sha256.Sum256(o.note) == u.failing {
		return // no system of its own; or this one does not come onto this box
	}
	u.offer = o
}

// stepUpdate is called every second. Whatever has to do with an update happens here, or when PID 1 says something.
func (a *Agent) stepUpdate(ctx context.Context, now time.Time) error {
	if a.cfg.Boot == nil {
		return nil
	}
	u := &a.update
	if err := a.tellHealthy(); err != nil {
		return err
	}
	switch {
	case u.ready != "" && a.idle():
		ready := u.ready
		u.ready = ""
		return a.cfg.Boot.Reboot("update to " + ready)
	case u.job == nil && u.offer != nil && u.system != nil && a.idle() && !now.Before(u.after):
		if err := a.beginUpdate(ctx, now); err != nil {
			return a.failUpdate(u.offer.note, err, true)
		}
	}
	if u.job == nil {
		return nil
	}
	select {
	case err := <-u.job.ended:
		u.job.fetched = err == nil
		if err != nil && !u.job.dropped {
			a.log.Warn("release not fetched", "err", err) // PID 1 sees a file that ends early, and says so
		}
	default:
	}
	if !a.idle() && !u.job.fetched && !u.job.dropped {
		u.job.dropped = true // work goes first; it begins again when the card is out
		u.job.cancel()
	}
	return a.showUpdate(now)
}

// beginUpdate starts to fetch what is offered, if it is for this box.
func (a *Agent) beginUpdate(ctx context.Context, now time.Time) error {
	u, o := &a.update, a.update.offer
	if u.system.Trial {
		u.system.Trial, u.after = false, now.Add(trialTime)
		return nil
	}
	r, err := release.Open(a.cfg.Releases, o.note)
	if err != nil {
		return err
	}
	err = r.Check(release.Running{Model: u.system.Model, Version: u.system.Version}, now) // the minimum is PID 1's to hold
	if errors.Is(err, release.ErrSame) {
		u.offer = nil
		return nil
	}
	if err != nil {
		return err
	}
	if u.system.Tries >= release.MaxTries && u.system.Tried == hex.EncodeToString(r.Image.SHA256[:]) {
		return release.ErrGivenUp
	}
	version := u.system.Version
	if u.full {
		version = ""
	}
	file, base := r.Source(version)
	to, err := a.cfg.Boot.Install(o.note, base.Size > 0)
	if err != nil {
		return err
	}
	limited, cancel := context.WithTimeout(ctx, fetchLimit)
	j := &job{release: r, file: file, offer: o, said: refusal.New(refusal.Updating), begun: now, cancel: cancel, ended: make(chan error, 1)}
	u.job = j
	a.log.Info("update", "from", u.system.Version, "to", r.Version, "bytes", file.Size, "delta", base.Size > 0, "code", j.said.Error())
	a.workers.Go(func() error {
		defer cancel()
		j.ended <- j.fetch(limited, to)
		return nil
	})
	return nil
}

// onSystem takes what runs.
func (a *Agent) onSystem(s boot.System) {
	a.update.system = &s
	a.log.Info("system", "model", s.Model, "version", s.Version, "trial", s.Trial, "tries", s.Tries)
}

// onUpdate takes how far PID 1 is.
func (a *Agent) onUpdate(e boot.Update) error {
	u := &a.update
	j := u.job
	if j == nil {
		return nil
	}
	switch {
	case e.Installed:
		u.job, u.offer, u.ready = nil, nil, j.release.Version
		a.log.Info("update installed", "version", u.ready)
		return nil
	case e.Error == "" && !e.Full:
		j.done, j.total = e.Done, e.Total
		return nil
	}
	u.job = nil
	j.cancel()
	switch {
	case e.Full && !u.full:
		u.full = true
		return nil // at once, with the full file
	case j.dropped:
		return nil
	}
	return errors.Join(a.failUpdate(j.offer.note, errors.New(e.Error), false), a.showIdle())
}

// failUpdate tells the centre by a code that this box stays as it is, and leaves it at that for a while, or for good.
func (a *Agent) failUpdate(note []byte, why error, forGood bool) error {
	u := &a.update
	if hash := sha256.Sum256(note); u.failing != hash {
		u.failing, u.fails = hash, 0
	}
	if u.fails++; forGood {
		u.fails = maxFailures
	}
	u.full, u.after = false, time.Now().Add(updateAgain)
	if u.fails >= maxFailures {
		u.offer = nil
	}
	said := refusal.New(refusal.NotUpdated)
	a.log.Warn("no update", "code", said.Error(), "err", why)
	return a.report(said)
}

// showUpdate covers the screen of a box at which nobody is.
func (a *Agent) showUpdate(now time.Time) error {
	j := a.update.job
	if !a.idle() || j.dropped {
		return nil
	}
	share := j.share()
	shown := j.said
	if took := now.Sub(j.begun).Seconds(); share > 0.01 && took >= 2 {
		rest := int(took*(1-share)/share)/spanStep*spanStep + spanStep
		shown.Params = map[string]string{"rest": strconv.Itoa(rest)}
	}
	return a.face.show(kiosk.Message{Refusal: shown, Share: max(share, 0.01)})
}

// share is how much of an update is done, 0 to 1: the way and the disk take about as long.
func (j *job) share() float64 {
	share := float64(j.got.Load()) / float64(j.file.Size) / 2
	if j.total > 0 {
		share += float64(j.done) / float64(j.total) / 2
	}
	return share
}

// showIdle shows again what an update covered.
func (a *Agent) showIdle() error {
	switch {
	case !a.idle():
		return nil
	case a.state == Ready:
		return a.face.show(kiosk.Ready{})
	case a.state == Closed:
		return a.face.show(kiosk.Message{Refusal: a.said})
	case a.said.Code == "":
		return a.face.show(kiosk.Boot{})
	}
	return a.face.show(kiosk.Boot{Refusal: &a.said})
}

// tellHealthy says what a release on trial must have shown, each once. The screen has been drawn when the loop comes here.
func (a *Agent) tellHealthy() error {
	u := &a.update
	for part, seen := range map[boot.Part]bool{boot.ScreenShown: true, boot.ReaderSeen: a.cfg.Cards.Readers() > 0, boot.Attested: a.up != nil, boot.TunnelUp: a.up != nil} {
		if !seen || u.healthy[part] {
			continue
		}
		if err := a.cfg.Boot.Healthy(part); err != nil {
			return err
		}
		if u.healthy == nil {
			u.healthy = map[boot.Part]bool{}
		}
		u.healthy[part] = true
	}
	return nil
}

var (
	errNoFile = errors.New("the gateway does not have the file")
	errTaken  = errors.New("PID 1 takes no more")
)

// fetch brings the file to PID 1, from where it was when the connection broke. Closing early tells PID 1 that it is given up.
func (j *job) fetch(ctx context.Context, to io.WriteCloser) error {
	stop := context.AfterFunc(ctx, func() { to.Close() })
	defer stop()
	defer to.Close() // again: it tells nothing any more
	wait, certified := firstBackoff, true
	for {
		before := j.got.Load()
		answered, err := j.fetchOn(ctx, to, certified)
		got := j.got.Load()
		switch {
		case got == j.file.Size:
			return to.Close()
		case errors.Is(err, errNoFile), errors.Is(err, errTaken):
			return err
		case !answered:
			certified = !certified // a certificate that has ended while the box was off lets nobody in
		}
		if got > before {
			wait = firstBackoff
		}
		if !pause(ctx, jitter(wait)) {
			return fmt.Errorf("fetch release: %w", errors.Join(ctx.Err(), err))
		}
		wait = min(2*wait, lastBackoff)
	}
}

// fetchOn fetches what is missing, over one connection, as far as it goes.
func (j *job) fetchOn(ctx context.Context, to io.Writer, certified bool) (answered bool, err error) {
	dialling, cancel := context.WithTimeout(ctx, doorTimeout)
	defer cancel()
	conn, err := j.offer.dial(dialling, certified)
	if err != nil {
		return false, err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.NetConn().Close() })
	defer stop()
	ask, answer := wire.NewFetch(j.file.SHA256, j.got.Load()), make([]byte, 1)
	if err := conn.SetDeadline(time.Now().Add(fetchQuiet)); err != nil {
		return false, err
	}
	if _, err := conn.Write(ask[:]); err != nil {
		return false, err
	}
	if _, err := io.ReadFull(conn, answer); err != nil {
		return false, err
	}
	switch wire.Fetched(answer[0]) {
	case wire.FetchedFile:
	case wire.FetchedNone:
		return true, errNoFile
	default:
		return true, fmt.Errorf("the gateway answers %d", answer[0])
	}
	chunk := make([]byte, maxChunk)
	for j.got.Load() < j.file.Size {
		if err := conn.SetReadDeadline(time.Now().Add(fetchQuiet)); err != nil {
			return true, err
		}
		n, err := conn.Read(chunk[:min(int64(len(chunk)), j.file.Size-j.got.Load())])
		if n > 0 {
			if _, err := to.Write(chunk[:n]); err != nil {
				return true, fmt.Errorf("%w: %w", errTaken, err)
			}
			j.got.Add(int64(n))
		}
		if err != nil {
			return true, err
		}
	}
	return true, nil
}
