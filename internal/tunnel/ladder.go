// SPDX-License-Identifier: Apache-2.0

package tunnel

import "time"

// How a box chooses between UDP and TLS (implementation).
const (
	ladderTick = 250 * time.Millisecond

	owedProbe   = ladderTick             // the active bearer while an answer is owed
	busyProbe   = 500 * time.Millisecond // while the box has something to say
	calmProbe   = 5 * time.Second        // else
	warmProbe   = 10 * time.Second       // TLS in reserve
	searchProbe = 2 * time.Second        // UDP while it does not answer

	silenceLimit = 950 * time.Millisecond // of the active UDP: four probes unanswered
	streamLimit  = 6 * time.Second        // of TLS: then it is made anew
	forgetProbe  = 30 * time.Second
	answerLimit  = time.Second // an answer that takes longer is no longer counted as good

	lossWindow   = 10 * time.Second
	lossLeast    = 10  // probes in the window that may be judged
	lossLimit    = 0.3 // of them
	lossToReturn = 0.1
	slowLimit    = 500 * time.Millisecond
	slowFactor   = 4 // times the round trip by TLS

	goodProbes  = 6 // in a row, full-size, before UDP carries again
	firstWait   = 3 * time.Second
	longestWait = 20 * time.Second
	goneAfter   = 2500 * time.Millisecond // without an answer: the wait begins anew; a lost probe only breaks the row
	shortStay   = time.Minute             // on UDP: doubles the wait for the next return
	longStay    = 10 * time.Minute        // forgives
)

// road is what the probes of one bearer say. It keeps no clock: every call is given the time.
type road struct {
	pending []probeSent    // oldest first
	past    []probeOutcome // of the last lossWindow
	last    time.Time      // when the last probe left
	heard   time.Time      // when the last answer came
	rtt     time.Duration  // of that one
	streak  int            // good answers in a row
	good    time.Time      // since when it answers, but for single losses
}

type probeSent struct {
	number uint32
	at     time.Time
	late   bool // counted as lost already
}

type probeOutcome struct {
	at   time.Time
	lost bool
}

func (r *road) sent(number uint32, now time.Time) {
	r.pending = append(r.pending, probeSent{number: number, at: now})
	r.last = now
}

// answered takes an answer; one that was not asked for, or has come already, changes nothing.
func (r *road) answered(number uint32, now time.Time) {
	for i, p := range r.pending {
		if p.number != number {
			continue
		}
		r.pending = append(r.pending[:i], r.pending[i+1:]...)
		if now.Sub(r.heard) > goneAfter {
			r.good, r.past = now, nil
			for j := range r.pending { // of the time when it was gone
				r.pending[j].late = true
			}
		}
		r.heard, r.rtt = now, now.Sub(p.at)
		if p.late {
			return
		}
		r.past = append(r.past, probeOutcome{at: now})
		r.streak++
		return
	}
}

// age counts probes as lost that had their time, if the other bearer does better, and forgets what is long past.
func (r *road) age(now time.Time, better bool) {
	for i := range r.pending {
		if p := &r.pending[i]; !p.late && now.Sub(p.at) > answerLimit {
			p.late = true
			r.streak = 0
			if better {
				r.past = append(r.past, probeOutcome{at: now, lost: true})
			}
		}
	}
	for len(r.pending) > 0 && now.Sub(r.pending[0].at) > forgetProbe {
		r.pending = r.pending[1:]
	}
	for len(r.past) > 0 && now.Sub(r.past[0].at) > lossWindow {
		r.past = r.past[1:]
	}
}

// silence is how long the road has owed an answer.
func (r *road) silence(now time.Time) time.Duration {
	for _, p := range r.pending {
		if p.at.After(r.heard) {
			return now.Sub(p.at)
		}
	}
	return 0
}

// loses says whether more than this share of the last probes were lost.
func (r *road) loses(share float64) bool {
	lost := 0
	for _, o := range r.past {
		if o.lost {
			lost++
		}
	}
	return float64(lost) > share*float64(len(r.past))
}

// ladder decides which bearer carries, and when which one is probed. UDP is better where it works: a lost packet holds
// up no other. It is owned by one goroutine.
//
//	on UDP -- 1 s without an answer, 30 % lost, or far slower than TLS; TLS answers -----> on TLS
//	on TLS -- answers over the wait (3 s; longer after a short stay), the last 6 in a row, full-size -> on UDP
type ladder struct {
	udp, tls road
	onTLS    bool
	tlsUp    bool      // the connection is there
	since    time.Time // of the present choice
	wait     time.Duration
}

func newLadder(now time.Time) *ladder { return &ladder{since: now, wait: firstWait} }

// orders are what one step of the ladder wants done.
type orders struct {
	udp, tls int  // sizes of the probes to send, 0 for none
	redial   bool // TLS is dead
	hurry    bool // TLS is wanted now
}

// stream says that the TLS connection came or went.
func (l *ladder) stream(up bool) {
	l.tlsUp = up
	l.tls = road{}
}

// prefer says that the first handshake was answered by TLS and not by UDP.
func (l *ladder) prefer(now time.Time) { l.onTLS, l.since = true, now }

// step looks at both roads; busy says that the box has just sent something.
func (l *ladder) step(now time.Time, busy bool) (o orders) {
	l.udp.age(now, l.tls.silence(now) < 2*owedProbe)
	l.tls.age(now, true)
	if l.onTLS {
		l.up(now)
	} else {
		l.down(now)
	}
	o.hurry = !l.tlsUp && (l.onTLS || l.udp.silence(now) > 0)
	o.redial = l.tlsUp && l.tls.silence(now) >= streamLimit
	due := func(r *road, every time.Duration) bool { return now.Sub(r.last) >= every-ladderTick/5 }
	anxious := func(r *road) time.Duration {
		switch {
		case r.silence(now) > 0:
			return owedProbe
		case busy:
			return busyProbe
		}
		return calmProbe
	}
	toUDP, toTLS := anxious(&l.udp), warmProbe
	if l.udp.silence(now) >= 2*owedProbe {
		toTLS = owedProbe // does it answer?
	}
	if l.onTLS {
		toUDP, toTLS = searchProbe, anxious(&l.tls)
		if l.udp.streak > 0 {
			toUDP = busyProbe
		}
	}
	if due(&l.udp, toUDP) {
		o.udp = probeSize
		if l.onTLS && l.udp.streak > 0 {
			o.udp = maxPacket // small packets pass where large ones are dropped in silence
		}
	}
	if l.tlsUp && due(&l.tls, toTLS) {
		o.tls = probeSize
	}
	return o
}

func (l *ladder) down(now time.Time) {
	silence, alive := l.udp.silence(now), now.Sub(l.tls.heard)
	silent := silence >= silenceLimit && alive < silence // TLS has answered since: it is not the cable
	bad := len(l.udp.past) >= lossLeast && l.udp.loses(lossLimit) || l.slow()
	if !l.tlsUp || !silent && !(bad && alive < lossWindow) {
		return
	}
	switch stay := now.Sub(l.since); {
	case l.udp.heard.IsZero(): // it never carried
	case stay < shortStay:
		l.wait = min(2*l.wait, longestWait)
	case stay > longStay:
		l.wait = firstWait
	}
	l.onTLS, l.since = true, now
	l.udp.streak, l.udp.past = 0, nil
}

// slow says that UDP takes so much longer than TLS that something on the way holds it back.
func (l *ladder) slow() bool {
	return l.udp.rtt > slowLimit && l.tls.rtt > 0 && l.udp.rtt > slowFactor*l.tls.rtt
}

func (l *ladder) up(now time.Time) {
	patient := l.udp.streak >= goodProbes && now.Sub(l.udp.good) >= l.wait-busyProbe && !l.udp.loses(lossToReturn) && !l.slow()
	if patient || !l.tlsUp && l.udp.streak > 0 {
		l.onTLS, l.since = false, now
	}
}
