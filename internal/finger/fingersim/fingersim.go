// SPDX-License-Identifier: Apache-2.0

// Package fingersim is people's fingers and a sensor in software: a seed grows a finger, and each time it is placed the
// impression differs, as skin and sensors make it. The sensor serves the socket that finger.Unix reads.
package fingersim

import (
	"cmp"
	"math"
	"math/rand/v2"
	"slices"

	"sdbox/internal/finger"
)

// Finger is one finger of one person; the same seed is the same finger. It never changes and may be shared.
type Finger struct {
	minutiae []mark
	rotation float64 // how this person tends to place it, radians
}

// mark is one minutia of a finger, in millimetres from the middle of the print, y down.
type mark struct {
	x, y    float64
	dir     float64 // radians, counter-clockwise seen with y up
	kind    finger.Type
	clarity float64 // 0..1: how surely a sensor sees it
}

// The shape of a print and of what happens to it, in millimetres and radians.
const (
	halfWidth, halfHeight = 8.2, 10.4 // print of a plain press
	spacing               = 0.85      // two minutiae are never closer
	density               = 0.24      // minutiae per square millimetre
	middle                = 12.75     // of the 25.5 mm a byte spans
)

// NewFinger grows the finger of a seed: a pattern of ridges (loop, whorl or arch) and the minutiae in it.
func NewFinger(seed uint64) *Finger {
	r := rand.New(rand.NewPCG(seed, 0x66696E676572))
	flow := newFlow(r)
	f := &Finger{rotation: r.NormFloat64() * 0.06}
	want := int(density * math.Pi * halfWidth * halfHeight * (1 + 0.12*r.NormFloat64()))
	for tries := 0; len(f.minutiae) < want && tries < 100*want; tries++ {
		x, y := (2*r.Float64()-1)*halfWidth, (2*r.Float64()-1)*halfHeight
		if x*x/halfWidth/halfWidth+y*y/halfHeight/halfHeight > 1 || crowded(f.minutiae, x, y) {
			continue
		}
		f.minutiae = append(f.minutiae, mark{x, y, flow.direction(r, x, y), kind(r), math.Min(1, 0.45+0.65*r.Float64())})
	}
	return f
}

func crowded(marks []mark, x, y float64) bool {
	return slices.ContainsFunc(marks, func(m mark) bool { return math.Hypot(m.x-x, m.y-y) < spacing })
}

func kind(r *rand.Rand) finger.Type {
	if r.Float64() < 0.56 {
		return finger.Ending
	}
	return finger.Bifurcation
}

// flow is the direction of the ridges: half the sum of the angles to cores less those to deltas (Sherlock and Monro's
// zero-pole model), made uneven by a slow wave. Fingers of one class share most of it, so that impostors look alike.
type flow struct {
	cores, deltas [][2]float64
	phase, sense  [3]float64
}

func newFlow(r *rand.Rand) *flow {
	f := new(flow)
	jitter := func(x, y float64) [2]float64 { return [2]float64{x + 0.7*r.NormFloat64(), y + 0.7*r.NormFloat64()} }
	side := 1.0
	if r.Float64() < 0.5 {
		side = -1
	}
	switch class := r.Float64(); {
	case class < 0.62: // loop
		f.cores, f.deltas = [][2]float64{jitter(0, -1)}, [][2]float64{jitter(side*6, 7)}
	case class < 0.93: // whorl
		f.cores = [][2]float64{jitter(0, -2.2), jitter(0, 1.2)}
		f.deltas = [][2]float64{jitter(-6.5, 7.5), jitter(6.5, 7.5)}
	case class < 0.97: // tented arch
		f.cores, f.deltas = [][2]float64{jitter(0, 0)}, [][2]float64{jitter(0, 5)}
	}
	for i := range f.phase {
		f.phase[i], f.sense[i] = 2*math.Pi*r.Float64(), 2*math.Pi*r.Float64()
	}
	return f
}

// direction is where a minutia at x, y points: along the ridges, mostly to the side its surroundings point to.
func (f *flow) direction(r *rand.Rand, x, y float64) float64 {
	theta := 0.0
	for _, c := range f.cores {
		theta += math.Atan2(y-c[1], x-c[0])
	}
	for _, d := range f.deltas {
		theta -= math.Atan2(y-d[1], x-d[0])
	}
	if len(f.cores) == 0 { // plain arch
		theta = -math.Atan(0.9*math.Exp(-y*y/40)*math.Sin(x*0.38)) * 2
	}
	theta = theta/2 + 0.12*math.Sin(0.5*x+f.phase[0])*math.Cos(0.4*y+f.phase[1])
	dir := -theta + 0.07*r.NormFloat64() // y down to y up
	other := math.Sin(0.45*x+f.sense[0])+math.Sin(0.4*y+f.sense[1]) > 0
	if other != (r.Float64() < 0.15) {
		dir += math.Pi
	}
	return dir
}

// Reference is what an enrolment desk would store: the clear minutiae, carefully taken, at most 60.
func (f *Finger) Reference() finger.Template {
	r := rand.New(rand.NewPCG(uint64(len(f.minutiae)), uint64(f.minutiae[0].x*1e6)))
	p := placement{r: r, reachX: 0.97, reachY: 0.97, noise: 0.5, miss: 0.35, invented: 1}
	return p.take(f)
}

// Impression is the finger placed once more, with the luck of r: turned, shifted, stretched, partly off the sensor, with
// minutiae missed, made up and mistaken. At most 60 minutiae, the clearest first.
func (f *Finger) Impression(r *rand.Rand) finger.Template {
	p := placement{
		r:      r,
		turn:   f.rotation + 0.11*r.NormFloat64(),
		dx:     1.0 * r.NormFloat64(),
		dy:     1.2 * r.NormFloat64(),
		reachX: 0.82 + 0.15*r.Float64(), reachY: 0.78 + 0.19*r.Float64(),
		offX: 0.6 * r.NormFloat64(), offY: 0.9 * r.NormFloat64(),
		bend:     0.16 * math.Abs(r.NormFloat64()),
		noise:    1,
		miss:     1,
		invented: 3 + r.IntN(8),
	}
	return p.take(f)
}

// placement is how a finger lies on the sensor this once.
type placement struct {
	r              *rand.Rand
	turn, dx, dy   float64
	reachX, reachY float64 // part of the print that touches
	offX, offY     float64 // where the touching part lies
	bend           float64 // millimetres of stretch
	noise, miss    float64 // 1 is usual
	invented       int     // minutiae that are none
}

func (p *placement) take(f *Finger) finger.Template {
	var seen []mark
	phase := [4]float64{p.angle(), p.angle(), p.angle(), p.angle()}
	for _, m := range f.minutiae {
		if !p.touches(m.x, m.y) || p.r.Float64() > 1-p.miss*0.30*(1.35-m.clarity)/0.6 {
			continue
		}
		if p.r.Float64() < 0.18*p.noise {
			m.kind = finger.Ending + finger.Bifurcation - m.kind
		}
		m.clarity += 0.15 * p.r.NormFloat64()
		m.x += p.bend*math.Sin(0.28*m.y+phase[0]) + 0.5*p.bend*math.Sin(0.5*m.x+phase[1]) + 0.13*p.noise*p.r.NormFloat64()
		m.y += p.bend*math.Sin(0.28*m.x+phase[2]) + 0.5*p.bend*math.Sin(0.5*m.y+phase[3]) + 0.13*p.noise*p.r.NormFloat64()
		m.dir += 0.15 * p.noise * p.r.NormFloat64()
		seen = append(seen, m)
	}
	for range p.invented {
		x, y := p.offX+(2*p.r.Float64()-1)*p.reachX*halfWidth, p.offY+(2*p.r.Float64()-1)*p.reachY*halfHeight
		if p.touches(x, y) {
			seen = append(seen, mark{x, y, p.angle(), kind(p.r), 0.3 + 0.3*p.r.Float64()})
		}
	}
	slices.SortStableFunc(seen, func(a, b mark) int { return cmp.Compare(b.clarity, a.clarity) })
	return p.encode(seen)
}

func (p *placement) angle() float64 { return 2 * math.Pi * p.r.Float64() }

func (p *placement) touches(x, y float64) bool {
	return math.Hypot((x-p.offX)/(p.reachX*halfWidth), (y-p.offY)/(p.reachY*halfHeight)) <= 1
}

// most is what common sensors and cards agree on; the standard allows more.
const most = 60

// encode turns and shifts the marks onto the sensor and rounds them to the card format. What falls off the sensor is lost.
func (p *placement) encode(seen []mark) finger.Template {
	t := make(finger.Template, 0, most)
	sin, cos := math.Sincos(p.turn)
	for _, m := range seen {
		x, y := math.Round(10*(middle+p.dx+cos*m.x+sin*m.y)), math.Round(10*(middle+p.dy-sin*m.x+cos*m.y))
		if x < 0 || x > 255 || y < 0 || y > 255 || len(t) == most {
			continue
		}
		steps := math.Round((m.dir + p.turn) * 64 / (2 * math.Pi))
		t = append(t, finger.Minutia{X: uint8(x), Y: uint8(y), Type: m.kind, Angle: uint8(int(steps) & 0x3F)})
	}
	return t
}
