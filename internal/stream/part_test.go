// SPDX-License-Identifier: Apache-2.0

package stream

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// cut gives a frame's parts as the wire carries them.
func cut(t testing.TB, n uint32, frame []byte) []part {
	var parts []part
	count := partCount(len(frame))
	for i := range count {
		p, err := parsePart(appendPart(nil, n, frame, i, count), i == count-1)
		require.NoError(t, err)
		parts = append(parts, p)
	}
	return parts
}

func noise(size int, seed byte) []byte {
	frame := make([]byte, size)
	rand.NewChaCha8([32]byte{seed}).Read(frame)
	return frame
}

func TestFrameComesBackFromItsParts(t *testing.T) {
	for _, size := range []int{1, partSize - 1, partSize, partSize + 1, 100_000, MaxFrame} {
		frame := noise(size, 1)
		a := newAssembler()
		sequence := uint16(65530) // wraps within
		for _, p := range cut(t, 7, frame) {
			a.add(sequence, p, time.Time{})
			sequence++
		}
		got := a.take(time.Time{})
		require.Len(t, got, 1, size)
		require.Equal(t, uint32(7), got[0].N)
		require.True(t, bytes.Equal(frame, got[0].Data))
		require.False(t, a.waiting())
	}
}

func TestPartsThatLieAreRefused(t *testing.T) {
	header := func(n uint32, index, count uint16, data int) []byte {
		b := binary.BigEndian.AppendUint32(nil, n)
		b = binary.BigEndian.AppendUint16(b, index)
		b = binary.BigEndian.AppendUint16(b, count)
		return append(b, make([]byte, data)...)
	}
	for name, bad := range map[string]struct {
		payload []byte
		marker  bool
	}{
		"nothing":                     {nil, true},
		"half a header":               {make([]byte, 7), true},
		"too long":                    {header(1, 0, 1, partSize+1), true},
		"index beyond count":          {header(1, 2, 2, 10), true},
		"more parts than a frame has": {header(1, 0, maxParts+1, partSize), false},
		"all ones":                    {bytes.Repeat([]byte{0xff}, 100), true},
		"short in the middle":         {header(1, 0, 2, partSize-1), false},
		"empty":                       {header(1, 0, 1, 0), true},
		"marker too early":            {header(1, 0, 2, partSize), true},
		"no marker at the end":        {header(1, 1, 2, 1), false},
		"opening with content":        {header(0, 0, 0, 1), true},
		"opening with a number":       {header(1, 0, 0, 0), true},
		"opening without marker":      {header(0, 0, 0, 0), false},
	} {
		_, err := parsePart(bad.payload, bad.marker)
		require.Error(t, err, name)
	}
	_, err := parsePart(openingPart(), true)
	require.NoError(t, err)
}

func FuzzPart(f *testing.F) {
	f.Add(appendPart(nil, 1, noise(3000, 2), 0, 3), false)
	f.Add(appendPart(nil, 1, noise(3000, 2), 2, 3), true)
	f.Add(openingPart(), true)
	f.Add([]byte{0, 0, 0, 1, 0xff, 0xff, 0, 1, 5}, true)
	f.Add([]byte{0, 0, 0, 1, 0, 0, 0xff, 0xff, 5}, false)
	f.Add([]byte{0, 0, 0, 1, 0, 0, 0, 2, 5}, false)
	f.Add([]byte{0, 0, 0, 1, 0, 0, 0, 2, 5}, true)
	f.Add([]byte{0, 0, 0, 1, 0, 0, 0, 0, 5}, true)
	f.Add([]byte{0}, true)
	f.Fuzz(func(t *testing.T, payload []byte, marker bool) {
		p, err := parsePart(payload, marker)
		if err != nil {
			return
		}
		require.Less(t, p.index, max(p.count, 1))
		again := binary.BigEndian.AppendUint32(nil, p.n)
		again = binary.BigEndian.AppendUint16(again, p.index)
		again = binary.BigEndian.AppendUint16(again, p.count)
		require.Equal(t, payload, append(again, p.data...))
		a := newAssembler()
		a.add(1, p, time.Time{})
		require.LessOrEqual(t, len(a.take(time.Time{}.Add(time.Second))), 2)
	})
}

// flight is a frame sequence on the wire: every part with its RTP number.
type flight struct {
	sequence uint16
	part     part
}

func fly(t testing.TB, frames ...[]byte) []flight {
	var all []flight
	for i, frame := range frames {
		for _, p := range cut(t, uint32(i), frame) {
			all = append(all, flight{uint16(len(all)), p})
		}
	}
	return all
}

func TestFramesComeInOrderFromDisorder(t *testing.T) {
	var frames [][]byte
	for i := range 50 {
		frames = append(frames, noise(1+i*500, byte(i)))
	}
	all := fly(t, frames...)
	all = append(all, all...) // every part twice
	dice := rand.New(rand.NewPCG(1, 2))
	for i := range all {
		j := min(len(all)-1, i+dice.IntN(20))
		all[i], all[j] = all[j], all[i]
	}
	a := newAssembler()
	a.add(65535, part{count: 0, data: []byte{}}, time.Time{}) // the opening part
	var got []Frame
	for _, f := range all {
		a.add(f.sequence, f.part, time.Time{})
		got = append(got, a.take(time.Time{})...)
	}
	require.Len(t, got, len(frames))
	for i, f := range got {
		require.Equal(t, uint32(i), f.N)
		require.True(t, bytes.Equal(frames[i], f.Data))
	}
}

func TestLostFrameIsAGapAfterTheRepairTime(t *testing.T) {
	start := time.Now()
	for name, lose := range map[string]int{"first part": 3, "middle part": 4, "last part": 5} {
		a := newAssembler()
		for i, f := range fly(t, noise(3*partSize, 1), noise(3*partSize, 2), noise(10, 3)) {
			if i != lose {
				a.add(f.sequence, f.part, start)
			}
		}
		got := a.take(start.Add(repairTime - 1))
		require.Len(t, got, 1, name)
		require.Equal(t, time.Duration(1), a.wait(start.Add(repairTime-1)), name)
		got = a.take(start.Add(repairTime))
		require.Len(t, got, 2, name)
		require.Equal(t, Frame{Gap: true}, got[0], name)
		require.Equal(t, uint32(2), got[1].N, name)
		require.False(t, a.waiting(), name)
	}
	a := newAssembler() // the end of the last frame is missing, and nothing follows
	a.add(0, fly(t, noise(3*partSize, 1))[0].part, start)
	require.Equal(t, []Frame{{Gap: true}}, a.take(start.Add(repairTime)))
	next := fly(t, noise(2000, 4))
	a.add(3, next[0].part, start)
	a.add(4, next[1].part, start)
	require.Len(t, a.take(start), 1)
}

func TestHostilePartsAreBoundedAndForgotten(t *testing.T) {
	dice := rand.New(rand.NewPCG(3, 4))
	now := time.Now()
	a := newAssembler()
	data := make([]byte, partSize)
	for range 100_000 {
		count := uint16(1 + dice.IntN(4))
		if dice.IntN(10) == 0 {
			count = maxParts
		}
		p := part{n: dice.Uint32N(3), index: uint16(dice.IntN(int(count))), count: count, data: data}
		a.add(uint16(dice.Uint32()), p, now)
		now = now.Add(time.Millisecond)
		require.LessOrEqual(t, len(a.take(now)), window)
		require.Less(t, a.highest, a.next+window)
		require.LessOrEqual(t, a.run, a.highest+1)
	}
	now = now.Add(time.Second)
	a.take(now)
	sequence := uint16(a.highest) + 1
	for _, frame := range [][]byte{noise(5000, 1), noise(90_000, 2)} { // an honest writer is understood again
		for _, p := range cut(t, 9, frame) {
			a.add(sequence, p, now)
			sequence++
		}
	}
	got := a.take(now.Add(time.Second))
	require.NotEmpty(t, got)
	require.True(t, bytes.Equal(noise(90_000, 2), got[len(got)-1].Data))
}

// FuzzSDP holds a session description to the certificate that the line named, before anything else reads it.
func FuzzSDP(f *testing.F) {
	c, err := NewCertificate()
	require.NoError(f, err)
	good := c.Fingerprint[:]
	pairs := make([]string, len(good))
	for i, b := range good {
		pairs[i] = fmt.Sprintf("%02X", b)
	}
	line := "a=fingerprint:sha-256 " + strings.Join(pairs, ":") + "\r\n"
	f.Add("v=0\r\nm=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\n"+line, good)
	f.Add("v=0\r\n", good)
	f.Add(line+"a=fingerprint:sha-256 00\r\n", good)
	f.Add(line+strings.Repeat("m=video 9\n", maxMedia+1), good)
	f.Add(line+"a=x"+strings.Repeat("\rm=video 9", maxMedia+1), good)
	f.Add(line+"a=x\ra=fingerprint:sha-256 00\n", good)
	f.Add(strings.Repeat("a", MaxSDP+1), good)
	f.Add(line, good[:31])
	f.Fuzz(func(t *testing.T, sdp string, fingerprint []byte) {
		if checkSDP(sdp, fingerprint) == nil {
			require.Len(t, fingerprint, 32)
			require.LessOrEqual(t, len(sdp), MaxSDP)
			lines := "\n" + strings.ReplaceAll(sdp, "\r", "\n") // as pion reads it
			require.LessOrEqual(t, strings.Count(lines, "\nm="), maxMedia)
			require.Positive(t, strings.Count(lines, "\na=fingerprint:"))
			require.NotContains(t, lines, "\na=fingerprint:sha-256 00\n")
		}
	})
}

// FuzzAssembler is a gateway whose packets come in any order, with any part in them. In said, each is a step of the sequence number,
// n, index, count, and how long the box waits after it in 10 ms.
func FuzzAssembler(f *testing.F) {
	say := func(packets ...[5]byte) (said []byte) {
		for _, p := range packets {
			said = append(said, p[:]...)
		}
		return said
	}
	f.Add(say([5]byte{1, 1, 0, 2, 0}, [5]byte{1, 1, 1, 2, 0}, [5]byte{1, 2, 0, 1, 0}))                                                   // in order
	f.Add(say([5]byte{2, 1, 1, 2, 1}, [5]byte{255, 1, 0, 2, 1}, [5]byte{0, 1, 0, 2, 1}))                                                 // the last first, then one again
	f.Add(say([5]byte{1, 1, 0, 3, 0}, [5]byte{2, 1, 2, 3, 99}, [5]byte{1, 2, 0, 1, 0}, [5]byte{2, 4, 0, 1, 99}, [5]byte{1, 5, 0, 1, 0})) // a part lost for good
	f.Add(say([5]byte{1, 1, 0, 2, 0}, [5]byte{1, 7, 1, 2, 0}, [5]byte{1, 8, 0, 1, 0}))                                                   // a part of another frame
	f.Add(say([5]byte{1, 0, 0, 0, 0}, [5]byte{1, 1, 0, 1, 0}))                                                                           // the opening part
	jump := say([5]byte{1, 1, 0, 2, 0})
	for range 200 {
		jump = append(jump, 127, 2, 0, 1, 0)
	}
	f.Add(jump) // further than the window
	f.Fuzz(func(t *testing.T, said []byte) {
		a, now, seq, given, made := newAssembler(), time.Unix(1, 0), uint16(65530), 0, 0
		for ; len(said) >= 5; said = said[5:] {
			seq += uint16(int8(said[0]))
			p := part{n: uint32(said[1]), index: uint16(said[2]), count: uint16(said[3]), data: said[:1]}
			if p.count == 0 {
				p = part{}
			} else if p.index >= p.count {
				continue // parsePart lets none of these through
			}
			given += len(p.data)
			a.add(seq, p, now)
			now = now.Add(10 * time.Millisecond * time.Duration(said[4]))
			for _, frame := range a.take(now) {
				made += len(frame.Data)
			}
			require.Positive(t, a.wait(now))
		}
		require.LessOrEqual(t, made, given)
	})
}
