// SPDX-License-Identifier: Apache-2.0

package release

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"slices"
)

// A block of a delta says which pieces of the old image it is like, and how it differs from them byte by byte, as bsdiff does (Percival,
// Naive differences of executable code, 2003): when a function grows, all that lies behind it keeps its code but for addresses, which
// differ by the same few numbers everywhere. Before it is compressed it is
//
//	uvarint  how many pieces; then for each
//	  uvarint  bytes before it that are like nothing
//	  uvarint  bytes of it
//	  varint   how much further on in the old image it begins than the piece before did, each counted from its place in the block
//	uvarint  how many runs of differences there are in all pieces, one behind the other; then
//	  uvarints the equal bytes before each
//	  uvarints the bytes of each
//	  bytes    the differences of all of them, new minus old
//	bytes    all that is like nothing, to the end of the block
//
// What is alike stands together, so that it compresses well.
const (
	anchorSize = 16 // a piece is found by so many equal bytes
	anchorStep = 8  // at every such place of the old image
	dropLimit  = 64 // a piece ends where its score has fallen so far below its best
	leastPiece = 24
	firstLook  = 64  // so long a piece is kept before another is tried
	farLook    = 256 // so far ahead another piece is tried
	leastGain  = 8   // and preferred for so many bytes that are equal in it alone
)

// piece is a part of a block that is like a part of the old image.
type piece struct{ at, old, length int }

// diff writes a block as differences to an old image, of which base is the block's own place.
func diff(block, old []byte, base int) []byte {
	pieces := match(block, old, base)
	out := binary.AppendUvarint(nil, uint64(len(pieces)))
	end, shift := 0, base
	var differences, literal []byte
	for _, p := range pieces {
		out = binary.AppendUvarint(out, uint64(p.at-end))
		out = binary.AppendUvarint(out, uint64(p.length))
		out = binary.AppendVarint(out, int64(p.old-p.at-shift))
		literal = append(literal, block[end:p.at]...)
		for i := range p.length {
			differences = append(differences, block[p.at+i]-old[p.old+i])
		}
		end, shift = p.at+p.length, p.old-p.at
	}
	return append(append(out, runs(differences)...), append(literal, block[end:]...)...)
}

// runs writes differences, most of which are 0.
func runs(differences []byte) []byte {
	var gaps, sizes, values []byte
	count, end := 0, 0
	for at := 0; at < len(differences); at++ {
		if differences[at] == 0 {
			continue
		}
		start := at
		for at < len(differences) && differences[at] != 0 {
			at++
		}
		gaps = binary.AppendUvarint(gaps, uint64(start-end))
		sizes = binary.AppendUvarint(sizes, uint64(at-start))
		values = append(values, differences[start:at]...)
		count, end = count+1, at
	}
	return slices.Concat(binary.AppendUvarint(nil, uint64(count)), gaps, sizes, values)
}

// match finds the pieces of a block, in order, none inside another.
func match(block, old []byte, base int) []piece {
	where := index(old)
	var pieces []piece
	end, shift := 0, base // of the piece before
	for at := 0; at+anchorSize <= len(block); at++ {
		best := piece{}
		for _, from := range []int{at + shift, at + base, where.find(block[at:])} {
			if from >= 0 && from+anchorSize <= len(old) && string(old[from:from+anchorSize]) == string(block[at:at+anchorSize]) {
				if p := where.extend(block, old, at, from, end); p.length > best.length {
					best = p
				}
			}
		}
		if best.length >= leastPiece {
			pieces = append(pieces, best)
			end, shift = best.at+best.length, best.old-best.at
			at = end - 1
		}
	}
	return pieces
}

// extend makes the piece that holds an anchor as long as most of its bytes are equal and no other piece would be more so, back to the end
// of the piece before.
func (a anchors) extend(block, old []byte, at, from, end int) piece {
	length, best, score, probed := anchorSize, 0, 0, firstLook
	for i := anchorSize; at+i < len(block) && from+i < len(old) && score > best-dropLimit; i++ {
		equal := block[at+i] == old[from+i]
		if !equal && i >= probed {
			if probed = i + anchorStep; a.better(block, old, at+i, from+i) {
				break
			}
		}
		if score = weigh(score, equal); score > best {
			best, length = score, i+1
		}
	}
	back, best, score := 0, 0, 0
	for i := 1; at-i >= end && from-i >= 0 && score > best-dropLimit; i++ {
		if score = weigh(score, block[at-i] == old[from-i]); score > best {
			best, back = score, i
		}
	}
	return piece{at - back, from - back, length + back}
}

// better says whether soon after a place where a piece differs another one would fit far better. Tables of addresses are half equal to
// themselves wherever they are laid upon one another.
func (a anchors) better(block, old []byte, at, from int) bool {
	for i := at + 1; i <= at+anchorStep && i+anchorSize <= len(block); i++ {
		other, here := a.find(block[i:]), from+i-at
		if other < 0 || other == here {
			continue
		}
		gain := 0
		for k := range min(farLook, len(block)-i, len(old)-other, len(old)-here) {
			if block[i+k] != old[other+k] {
				break
			}
			if block[i+k] != old[here+k] {
				gain++
			}
		}
		if gain >= leastGain {
			return true
		}
	}
	return false
}

// weigh: a byte that differs costs less than a byte that is like nothing, for it mostly differs by what others near it differ by.
func weigh(score int, equal bool) int {
	if equal {
		return score + 2
	}
	return score - 1
}

// anchors are places of an old image by the bytes that stand there.
type anchors struct {
	at    []int32 // -1: none
	shift int     // of a hash, to what at has room for
}

func index(old []byte) anchors {
	width := min(max(bits.Len(uint(len(old)/anchorStep)), 4), 22)
	where := anchors{slices.Repeat([]int32{-1}, 1<<width), 64 - width}
	for at := 0; at+anchorSize <= len(old); at += anchorStep {
		where.at[where.slot(old[at:])] = int32(at)
	}
	return where
}

// slot is where in the table these bytes belong. The factors are odd, with well-mixed bits.
func (a anchors) slot(b []byte) uint64 {
	return (binary.LittleEndian.Uint64(b)*0x9E3779B97F4A7C15 ^ binary.LittleEndian.Uint64(b[8:])*0xC2B2AE3D27D4EB4F) >> a.shift
}

func (a anchors) find(b []byte) int { return int(a.at[a.slot(b)]) }

// patch makes a block of this length from its differences to an old image, of which base is the block's own place. The block lies in
// into's memory if there is enough.
func patch(changes, old []byte, base, length int, into []byte) ([]byte, error) {
	in := &cursor{rest: changes}
	pieces, sum := in.pieces(len(old), base, length)
	count := in.number(sum)
	gaps := *in
	equal := in.skip(count, sum)
	sizes := *in
	different := in.skip(count, sum-equal)
	values := in.take(different)
	if in.failed || len(in.rest) != length-sum {
		return nil, fmt.Errorf("%w: a block's differences cannot be read", ErrCorrupt)
	}
	block, literal := slices.Grow(into[:0], length), in.rest
	for _, p := range pieces {
		before := p.at - len(block)
		block = append(append(block, literal[:before]...), old[p.old:p.old+p.length]...)
		literal = literal[before:]
	}
	block = append(block, literal...)
	at := places{pieces: pieces}
	for range count {
		at.skip(gaps.number(sum))
		for range sizes.number(sum) {
			block[at.next()] += values[0]
			values = values[1:]
		}
	}
	return block, nil
}

// cursor reads numbers, and remembers that it could not.
type cursor struct {
	rest   []byte
	failed bool
}

// number is a uvarint of at most limit.
func (c *cursor) number(limit int) int {
	v, n := binary.Uvarint(c.rest)
	if n <= 0 || v > uint64(limit) {
		c.failed, c.rest = true, nil
		return 0
	}
	c.rest = c.rest[n:]
	return int(v)
}

// skip passes over so many numbers and returns their sum, which is at most limit.
func (c *cursor) skip(count, limit int) int {
	sum := 0
	for range count {
		if sum += c.number(limit - sum); c.failed {
			break
		}
	}
	return sum
}

func (c *cursor) take(n int) []byte {
	if n > len(c.rest) {
		c.failed, c.rest = true, nil
		return nil
	}
	taken := c.rest[:n]
	c.rest = c.rest[n:]
	return taken
}

// pieces reads the table of pieces, each inside the block and the old image, and the sum of their lengths.
func (c *cursor) pieces(old, base, length int) (list []piece, sum int) {
	end, shift := 0, base
	for range c.number(length / leastPiece) {
		at := end + c.number(length-end)
		size := c.number(length - at)
		move, n := binary.Varint(c.rest)
		c.rest = c.rest[max(n, 0):]
		if shift += int(min(max(move, -MaxImage), MaxImage)); n <= 0 || size < 1 || at+shift < 0 || at+shift > old-size {
			c.failed = true
		}
		if c.failed {
			return nil, 0
		}
		list, sum, end = append(list, piece{at, at + shift, size}), sum+size, at+size
	}
	return list, sum
}

// places goes through the bytes of pieces, one after the other.
type places struct {
	pieces []piece
	done   int // of the first one
}

// skip passes over n bytes.
func (p *places) skip(n int) {
	p.done += n
	for len(p.pieces) > 0 && p.done >= p.pieces[0].length {
		p.done -= p.pieces[0].length
		p.pieces = p.pieces[1:]
	}
}

// next is the place in the block of the next byte.
func (p *places) next() int {
	at := p.pieces[0].at + p.done
	p.skip(1)
	return at
}
