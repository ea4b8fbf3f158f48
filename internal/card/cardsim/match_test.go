// SPDX-License-Identifier: Apache-2.0

package cardsim

import (
	"math/rand/v2"
	"testing"

	"sdbox/internal/finger/fingersim"

	"github.com/stretchr/testify/require"
)

// crowd is many enrolled fingers.
type crowd struct {
	fingers    []*fingersim.Finger
	references [][]byte
	luck       *rand.Rand
}

func newCrowd(n int, seed uint64) *crowd {
	c := &crowd{luck: rand.New(rand.NewPCG(seed, 5))}
	for i := range n {
		f := fingersim.NewFinger(seed + uint64(i))
		c.fingers = append(c.fingers, f)
		c.references = append(c.references, f.Reference().Encode())
	}
	return c
}

// genuine is the score of a finger against itself, impostor against another one.
func (c *crowd) genuine() float64 {
	i := c.luck.IntN(len(c.fingers))
	return match(c.references[i], c.fingers[i].Impression(c.luck).Encode())
}

func (c *crowd) impostor() float64 {
	i := c.luck.IntN(len(c.fingers))
	j := (i + 1 + c.luck.IntN(len(c.fingers)-1)) % len(c.fingers)
	return match(c.references[j], c.fingers[i].Impression(c.luck).Encode())
}

func TestMatcherTellsFingersApart(t *testing.T) {
	c := newCrowd(40, 1000)
	refused, accepted, tries := 0, 0, 150
	for range tries {
		if c.genuine() < threshold {
			refused++
		}
		if c.impostor() >= threshold {
			accepted++
		}
	}
	require.LessOrEqual(t, refused, tries*3/100)
	require.Zero(t, accepted)
}

func TestMatcherIsNotFooledByPatterns(t *testing.T) {
	c := newCrowd(10, 2000)
	patterns := map[string][]byte{"one place": nil, "grid": nil, "rings": nil, "noise": nil}
	for i := range 60 {
		x, y := byte(60+16*(i%8)), byte(40+22*(i/8))
		patterns["one place"] = append(patterns["one place"], 128, 128, byte(i))
		patterns["grid"] = append(patterns["grid"], x, y, 0x40)
		patterns["rings"] = append(patterns["rings"], x, y, byte(i)&0x3F)
		patterns["noise"] = append(patterns["noise"], byte(c.luck.IntN(200)), byte(c.luck.IntN(255)), byte(c.luck.IntN(64)))
	}
	for name, p := range patterns {
		for _, reference := range c.references {
			require.Less(t, match(reference, p), threshold, name)
		}
	}
}

func TestTurnedAndShiftedFingerMatches(t *testing.T) {
	c := newCrowd(1, 3000)
	whole := c.references[0]
	require.Greater(t, match(whole, whole), 4*threshold)
	shifted := append([]byte(nil), whole...)
	for i := 0; i < len(shifted); i += 3 {
		shifted[i+1] -= min(20, shifted[i+1])
		shifted[i+2] = shifted[i+2]&0xC0 | (shifted[i+2]+1)&0x3F // all angles off by one step
	}
	require.Greater(t, match(whole, shifted), 2*threshold)
}

// BenchmarkErrorRates makes one genuine and one impostor try for each iteration and prints the rates at the card's
// threshold: run it with -benchtime 10000x.
func BenchmarkErrorRates(b *testing.B) {
	c := newCrowd(200, 1)
	refused, accepted, tries := 0.0, 0.0, 0.0
	for b.Loop() {
		tries++
		if c.genuine() < threshold {
			refused++
		}
		if c.impostor() >= threshold {
			accepted++
		}
	}
	b.ReportMetric(100*refused/tries, "FNMR-%")
	b.ReportMetric(100*accepted/tries, "FMR-%")
}

// BenchmarkMatch is the time of one comparison.
func BenchmarkMatch(b *testing.B) {
	c := newCrowd(1, 1)
	p := c.fingers[0].Impression(c.luck).Encode()
	for b.Loop() {
		match(c.references[0], p)
	}
}
