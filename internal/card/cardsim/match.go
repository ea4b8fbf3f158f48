// SPDX-License-Identifier: Apache-2.0

package cardsim

import (
	"cmp"
	"math"
	"slices"
)

// The matcher's numbers, in millimetres and degrees. They come from live-scan fingers at 500 dpi (the card format knows
// nothing finer than 0.1 mm and 5.6 degrees), not from the fingers of any generator.
const (
	neighbours     = 8    // compared around each minutia to find seeds
	nearDistance   = 0.7  // two neighbours agree in distance
	nearBearing    = 20.0 // ... in where they lie, seen from the minutia
	nearDirection  = 25.0 // ... in where they point
	seeds          = 40   // tried for an alignment
	maxRotation    = 60.0 // between two placements of a finger
	pairDistance   = 0.7  // two minutiae are the same after alignment
	pairStretch    = 0.02 // ... and this part of their distance from the seed more: skin gives
	pairDirection  = 18.0
	refits         = 3
	overlapReach   = 3.0 // a minutia counts as seen by both if the other side has one this near
	minimalOverlap = 14
)

// threshold is the score from which two impressions are one finger. The benchmark in this package prints what it buys.
const threshold = 5.0

// point is one minutia of the compact card format.
type point struct{ x, y, dir float64 } // millimetres, y up; degrees

// points decodes the compact card format: x and y in 0.1 mm, two bits of type, six bits of angle (ISO/IEC 19794-2, 8.2).
// The type is not used: sensors agree on it in three of four cases only.
func points(b []byte) []point {
	list := make([]point, len(b)/3)
	for i := range list {
		m := b[3*i:]
		list[i] = point{x: float64(m[0]) / 10, y: -float64(m[1]) / 10, dir: float64(m[2]&0x3F) * 360 / 64}
	}
	return list
}

// turn brings an angle difference into -180..180. The differences here are a few turns at most.
func turn(degrees float64) float64 {
	for degrees > 180 {
		degrees -= 360
	}
	for degrees < -180 {
		degrees += 360
	}
	return degrees
}

// match scores how well two lists of minutiae are the same finger.
func match(reference, probe []byte) float64 {
	a, b := points(reference), points(probe)
	best := 0.0
	for _, s := range findSeeds(a, b) {
		best = max(best, align(a, b, s))
	}
	return best
}

// seed is a pair of minutiae whose surroundings look alike.
type seed struct {
	i, j  int
	score float64
}

// star is a neighbour seen from its minutia.
type star struct{ distance, bearing, direction float64 }

func stars(list []point) [][]star {
	all := make([][]star, len(list))
	for i, p := range list {
		seen := make([]star, 0, len(list))
		for j, q := range list {
			if i == j {
				continue
			}
			dx, dy := q.x-p.x, q.y-p.y
			bearing := math.Atan2(dy, dx)*180/math.Pi - p.dir
			seen = append(seen, star{math.Hypot(dx, dy), turn(bearing), turn(q.dir - p.dir)})
		}
		slices.SortFunc(seen, func(s, t star) int { return cmp.Compare(s.distance, t.distance) })
		all[i] = seen[:min(neighbours, len(seen))]
	}
	return all
}

func findSeeds(a, b []point) []seed {
	starsA, starsB := stars(a), stars(b)
	var found []seed
	for i := range a {
		for j := range b {
			if math.Abs(turn(a[i].dir-b[j].dir)) > maxRotation {
				continue
			}
			if score := alike(starsA[i], starsB[j]); score > 0 {
				found = append(found, seed{i, j, score})
			}
		}
	}
	slices.SortStableFunc(found, func(s, t seed) int { return cmp.Compare(t.score, s.score) })
	return found[:min(seeds, len(found))]
}

// alike counts neighbours that agree, the better the more.
func alike(a, b []star) float64 {
	sum := 0.0
	var used [neighbours]bool
	for _, s := range a {
		best, at := 0.0, -1
		for j, t := range b {
			// Two places half a neighbourhood away differ by less distance than bearing; both must agree.
			d := math.Abs(s.distance-t.distance) / nearDistance
			g := math.Abs(turn(s.bearing-t.bearing)) / nearBearing
			r := math.Abs(turn(s.direction-t.direction)) / nearDirection
			if used[j] || d > 1 || g > 1 || r > 1 {
				continue
			}
			if w := 1 - (d+g+r)/6; w > best {
				best, at = w, j
			}
		}
		if at >= 0 {
			used[at] = true
			sum += best
		}
	}
	return sum
}

// motion turns and shifts a point of the probe onto the reference.
type motion struct{ sin, cos, dx, dy, angle float64 }

func (m motion) apply(p point) point {
	return point{m.cos*p.x - m.sin*p.y + m.dx, m.sin*p.x + m.cos*p.y + m.dy, p.dir + m.angle}
}

func newMotion(degrees float64, from, to point) motion {
	sin, cos := math.Sincos(degrees * math.Pi / 180)
	return motion{sin, cos, to.x - cos*from.x + sin*from.y, to.y - sin*from.x - cos*from.y, degrees}
}

// pair is one minutia of each side found to be the same, with its weight 0..1.
type pair struct {
	i, j   int
	weight float64
}

// align starts from a seed, pairs, and lets the pairs correct the alignment.
func align(a, b []point, s seed) float64 {
	m := newMotion(turn(a[s.i].dir-b[s.j].dir), b[s.j], a[s.i])
	best := 0.0
	moved := make([]point, len(b))
	for range refits {
		for j, p := range b {
			moved[j] = m.apply(p)
		}
		pairs := pairUp(a, moved, a[s.i])
		if len(pairs) < 3 {
			break
		}
		best = max(best, rate(a, moved, pairs))
		m = refit(a, b, pairs)
		if math.Abs(turn(m.angle)) > maxRotation {
			break
		}
	}
	return best
}

// pairUp takes the closest pairs first, each minutia once.
func pairUp(a, moved []point, centre point) []pair {
	var candidates []pair
	for i, p := range a {
		reach := pairDistance + pairStretch*math.Hypot(p.x-centre.x, p.y-centre.y)
		for j, q := range moved {
			d := math.Hypot(p.x-q.x, p.y-q.y) / reach
			r := math.Abs(turn(p.dir-q.dir)) / pairDirection
			if d <= 1 && r <= 1 {
				candidates = append(candidates, pair{i, j, 1 - (d*d+r*r)/3})
			}
		}
	}
	slices.SortStableFunc(candidates, func(x, y pair) int { return cmp.Compare(y.weight, x.weight) })
	usedA, usedB := make([]bool, len(a)), make([]bool, len(moved))
	pairs := candidates[:0]
	for _, c := range candidates {
		if !usedA[c.i] && !usedB[c.j] {
			usedA[c.i], usedB[c.j] = true, true
			pairs = append(pairs, c)
		}
	}
	return pairs
}

// refit is the rigid motion that brings the pairs closest together (least squares, weighted).
func refit(a, b []point, pairs []pair) motion {
	var ca, cb point
	sum := 0.0
	for _, p := range pairs {
		sum += p.weight
		ca.x, ca.y = ca.x+p.weight*a[p.i].x, ca.y+p.weight*a[p.i].y
		cb.x, cb.y = cb.x+p.weight*b[p.j].x, cb.y+p.weight*b[p.j].y
	}
	ca, cb = point{x: ca.x / sum, y: ca.y / sum}, point{x: cb.x / sum, y: cb.y / sum}
	sin, cos := 0.0, 0.0
	for _, p := range pairs {
		ax, ay, bx, by := a[p.i].x-ca.x, a[p.i].y-ca.y, b[p.j].x-cb.x, b[p.j].y-cb.y
		cos += p.weight * (bx*ax + by*ay)
		sin += p.weight * (bx*ay - by*ax)
	}
	return newMotion(math.Atan2(sin, cos)*180/math.Pi, cb, ca)
}

// rate weighs the pairs against what both sides could have seen: a small overlap cannot score high by luck.
func rate(a, moved []point, pairs []pair) float64 {
	sum := 0.0
	for _, p := range pairs {
		sum += p.weight
	}
	na, nb := max(within(a, moved), minimalOverlap), max(within(moved, a), minimalOverlap)
	return sum * sum / math.Sqrt(float64(na)*float64(nb))
}

// within counts the minutiae of a that have one of b in reach.
func within(a, b []point) int {
	n := 0
	for _, p := range a {
		if slices.ContainsFunc(b, func(q point) bool { return math.Hypot(p.x-q.x, p.y-q.y) <= overlapReach }) {
			n++
		}
	}
	return n
}
