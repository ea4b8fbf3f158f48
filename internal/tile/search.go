// SPDX-License-Identifier: Apache-2.0

package tile

import (
	"bytes"
	"encoding/binary"
	"image"
	"math"
	"slices"
)

// Few programs tell the desktop that they scroll: most draw the whole window again. The finder sees such a move in the
// pixels alone, in four steps whose work is bounded whatever the picture:
//
//	anchors   places of the changed tiles that the pixels themselves choose, so that a move takes them along
//	votes     an anchor that stood elsewhere before votes for the vector between; a true move has most of them
//	blocks    for the best vectors, each block is compared with where it would come from, byte by byte
//	copies    blocks that agree become rectangles, grown to the pixel
//
// Nothing depends on a hash: a copy that is found is right for every pixel.
const (
	searchTiles = 4  // fewer changed tiles than this are cheap to send: a key's echo waits for no search
	largeSearch = 64 // tiles from which on a search in vain puts off the next
	maxPause    = 15 // large searches left out at most
	sparseRows  = 4  // of a large search, one row of the new picture of so many has a vote
	anchorPixel = 8  // the pixels that choose an anchor, one edge of 16
	keyPixels   = 48 // the pixels that name it: fewer are alike too often in text of two colours
	maxEdges    = 1 << 17
	anchorSlots = 1 << 15
	voteSlots   = 1 << 12
	probes      = 4 // slots tried; so many places of equal pixels are known
	minVotes    = 8
	minShare    = 64 // of the anchors of the new picture, one of so many at least
	maxVectors  = 4
	blockWide   = 32 // flat, so that some lie inside a single line of text
	blockHigh   = 4
	minBlocks   = 4 // changed blocks of a copy worth its bytes
)

// finder looks for what moved. Its tables are made at the first search and kept.
type finder struct {
	fewest  int // changed tiles below which nothing is searched
	anchors []anchor
	votes   []vote
	blocks  []blockState
	across  int               // blocks in a row
	spans   []image.Rectangle // runs of changed tiles
	misses  int               // large searches in vain, one after the other
	pause   int               // large searches still to leave out
}

// anchor is a place of the previous picture; key 0 is an empty slot.
type anchor struct {
	key  uint32
	x, y uint16
}

// vote counts anchors that moved by (dx, dy).
type vote struct {
	dx, dy int16
	n      int32
}

type blockState uint8

const (
	blockSame    blockState = iota // shows what it showed
	blockChanged                   // does not, and nothing is known of it
	blockDone                      // is inside a copy
)

// find returns copies that turn parts of was into now, inside the tiles marked in dirty, at most limit of them. hints are
// copies made already. It unmarks tiles that show what they showed.
func (f *finder) find(was, now picture, dirty []bool, hints []Copy, limit int) []Copy {
	changed := f.changedTiles(was, now, dirty)
	if changed < f.fewest || limit < 1 {
		return nil
	}
	large := changed >= largeSearch
	if large && f.pause > 0 {
		f.pause--
		return nil
	}
	if f.anchors == nil {
		f.anchors, f.votes = make([]anchor, anchorSlots), make([]vote, voteSlots)
	}
	every := 1
	if large {
		every = sparseRows
	}
	var copies []Copy
	area := 0
	if vectors := f.vectors(was, now, every); len(vectors) > 0 {
		within := f.compareBlocks(was, now, hints)
		for _, v := range vectors {
			copies = f.copiesOf(copies, was, now, within, v, limit)
		}
		for _, c := range copies {
			area += c.Dst.Dx() * c.Dst.Dy()
		}
	}
	if large {
		f.rest(area > changed*Size*Size/16)
	}
	return copies
}

// rest puts off the next large search when many in a row found little: a video must not pay for each of its frames.
func (f *finder) rest(found bool) {
	if found {
		f.misses, f.pause = 0, 0
		return
	}
	f.misses++
	f.pause = min(1<<f.misses-2, maxPause)
	f.misses = min(f.misses, 8)
}

// changedTiles keeps the marks of tiles that differ, lays them out as spans, and counts them.
func (f *finder) changedTiles(was, now picture, dirty []bool) int {
	f.spans = f.spans[:0]
	across, _ := now.tiles()
	n := 0
	for i, marked := range dirty {
		if !marked {
			continue
		}
		r := now.tile(i)
		if same(was, now, r, r.Min) {
			dirty[i] = false
			continue
		}
		n++
		if last := len(f.spans) - 1; last >= 0 && i%across > 0 && f.spans[last].Max.X == r.Min.X && f.spans[last].Min.Y == r.Min.Y {
			f.spans[last].Max.X = r.Max.X
		} else {
			f.spans = append(f.spans, r)
		}
	}
	return n
}

// same says whether r of now shows what was showed in the rectangle of that size at src.
func same(was, now picture, r image.Rectangle, src image.Point) bool {
	from := r.Sub(r.Min).Add(src)
	for y := range r.Dy() {
		if !bytes.Equal(now.row(r, r.Min.Y+y), was.row(from, from.Min.Y+y)) {
			return false
		}
	}
	return true
}

// vectors returns the moves most anchors vote for, the best first. Every so many rows of now have a vote.
func (f *finder) vectors(was, now picture, every int) []vote {
	clear(f.anchors)
	clear(f.votes)
	f.eachAnchor(was, 1, func(key uint32, x, y int) {
		for i := range uint32(probes) {
			if a := &f.anchors[(key+i)%anchorSlots]; a.key == 0 {
				*a = anchor{key, uint16(x), uint16(y)}
				return
			}
		}
	})
	all := int32(0)
	f.eachAnchor(now, every, func(key uint32, x, y int) {
		all++
		for i := range uint32(probes) {
			a := f.anchors[(key+i)%anchorSlots]
			if a.key == 0 {
				return
			}
			if a.key == key {
				f.elect(int16(x-int(a.x)), int16(y-int(a.y)))
			}
		}
	})
	var best []vote
	for _, v := range f.votes {
		if v.n >= max(minVotes, all/minShare) && (v.dx != 0 || v.dy != 0) {
			best = append(best, v)
		}
	}
	slices.SortStableFunc(best, func(a, b vote) int { return int(b.n - a.n) })
	return best[:min(len(best), maxVectors)]
}

func (f *finder) elect(dx, dy int16) {
	slot := uint32(uint16(dx))*0x9e37 + uint32(uint16(dy))*0x85eb
	for i := range uint32(2 * probes) {
		v := &f.votes[(slot+i)%voteSlots]
		if v.n == 0 {
			*v = vote{dx, dy, 1}
			return
		}
		if v.dx == dx && v.dy == dy {
			v.n++
			return
		}
	}
}

// eachAnchor calls do for the anchors in every so many rows of the spans: pixels that differ from the one before and, with those
// after, hash to one of 16 values. After maxEdges such pixels it stops: a photograph has many, and some of it is enough.
func (f *finder) eachAnchor(p picture, every int, do func(key uint32, x, y int)) {
	edges := 0
	for _, s := range f.spans {
		x0, x1 := max(s.Min.X, 1), min(s.Max.X, p.w-keyPixels)
		for y := s.Min.Y; y < s.Max.Y && x0 < x1; y += every {
			row := p.pix[y*p.w*4 : (y+1)*p.w*4]
			last := uint64(binary.LittleEndian.Uint32(row[x0*4-4:]))
			for x := x0; x < x1; x += 2 {
				two := binary.LittleEndian.Uint64(row[x*4:])
				if two == last<<32|last {
					continue
				}
				for at, pixel := range [2]uint64{two & math.MaxUint32, two >> 32} {
					if pixel == last {
						continue
					}
					last = pixel
					if edges++; chosen(row[(x+at)*4:]) && x+at < x1 {
						do(keyOf(row[(x+at)*4:]), x+at, y)
					}
				}
			}
			if edges > maxEdges {
				return
			}
		}
	}
}

// chosen says whether the pixels at the start of row make an anchor.
func chosen(row []byte) bool {
	row = row[:anchorPixel*4]
	le := binary.LittleEndian
	h := le.Uint64(row)*0x9e3779b97f4a7c15 + le.Uint64(row[8:])*0xc2b2ae3d27d4eb4f +
		le.Uint64(row[16:])*0x165667b19e3779f9 + le.Uint64(row[24:])*0xd6e8feb86659fd93
	return h>>60 == 0
}

// keyOf names the pixels at the start of row. It is never 0.
func keyOf(row []byte) uint32 {
	var h uint64
	for row = row[:keyPixels*4]; len(row) > 0; row = row[8:] {
		h = (h ^ binary.LittleEndian.Uint64(row)) * 0x9e3779b97f4a7c15
		h ^= h >> 29
	}
	return uint32(h>>32) | 1
}

// compareBlocks notes which blocks have changed, and returns the area they lie in.
func (f *finder) compareBlocks(was, now picture, hints []Copy) image.Rectangle {
	f.across = (now.w + blockWide - 1) / blockWide
	down := (now.h + blockHigh - 1) / blockHigh
	if len(f.blocks) != f.across*down {
		f.blocks = make([]blockState, f.across*down)
	} else {
		clear(f.blocks)
	}
	var area image.Rectangle
	for _, s := range f.spans {
		area = area.Union(s)
		for y := s.Min.Y / blockHigh; y*blockHigh < s.Max.Y; y++ {
			for x := s.Min.X / blockWide; x*blockWide < s.Max.X; x++ {
				if b := f.block(now, x, y); !same(was, now, b, b.Min) {
					f.blocks[y*f.across+x] = blockChanged
				}
			}
		}
	}
	for _, c := range hints {
		f.done(now, c.Dst)
	}
	return area
}

func (f *finder) block(p picture, x, y int) image.Rectangle {
	return image.Rect(x*blockWide, y*blockHigh, (x+1)*blockWide, (y+1)*blockHigh).Intersect(p.bounds())
}

// done marks the blocks of p that lie inside r.
func (f *finder) done(p picture, r image.Rectangle) {
	for y := r.Min.Y / blockHigh; y*blockHigh < r.Max.Y; y++ {
		for x := r.Min.X / blockWide; x*blockWide < r.Max.X; x++ {
			if f.block(p, x, y).In(r) {
				f.blocks[y*f.across+x] = blockDone
			}
		}
	}
}

// copiesOf appends copies by one vector: from each changed block that agrees as far right, then as far down as all agree.
func (f *finder) copiesOf(copies []Copy, was, now picture, area image.Rectangle, v vote, limit int) []Copy {
	move := image.Pt(int(v.dx), int(v.dy))
	from := was.bounds().Add(move) // what can have come this way
	x1, y1 := (area.Max.X+blockWide-1)/blockWide, (area.Max.Y+blockHigh-1)/blockHigh
	agrees := func(x, y int) bool {
		b := f.block(now, x, y)
		return f.blocks[y*f.across+x] != blockDone && b.In(from) && same(was, now, b, b.Min.Sub(move))
	}
	first := len(copies)
	for y := area.Min.Y / blockHigh; y < y1; y++ {
		for x := area.Min.X / blockWide; x < x1 && len(copies) < limit; x++ {
			if f.blocks[y*f.across+x] != blockChanged || !agrees(x, y) {
				continue
			}
			right, low := x+1, y+1
			for right < x1 && agrees(right, y) {
				right++
			}
			for low < y1 && agreeAll(agrees, x, right, low) {
				low++
			}
			if r := f.block(now, x, y).Union(f.block(now, right-1, low-1)); f.worth(r) {
				r = grow(was, now, r, move)
				f.done(now, r)
				copies = append(copies, Copy{r, r.Min.Sub(move)})
			}
			x = right
		}
	}
	if move.Y > 0 || move.Y == 0 && move.X > 0 { // so that none writes where a later one reads (picture.copyAll)
		slices.Reverse(copies[first:])
	}
	return copies
}

func agreeAll(agrees func(x, y int) bool, left, right, y int) bool {
	for x := left; x < right; x++ {
		if !agrees(x, y) {
			return false
		}
	}
	return true
}

// worth says whether enough of the blocks of r have changed.
func (f *finder) worth(r image.Rectangle) bool {
	n := 0
	for y := r.Min.Y / blockHigh; y*blockHigh < r.Max.Y; y++ {
		for x := r.Min.X / blockWide; x*blockWide < r.Max.X; x++ {
			if f.blocks[y*f.across+x] == blockChanged {
				if n++; n == minBlocks {
					return true
				}
			}
		}
	}
	return false
}

// grow moves each side of r out by less than a block while all pixels there agree, too.
func grow(was, now picture, r image.Rectangle, move image.Point) image.Rectangle {
	space := image.Rect(r.Min.X-blockWide+1, r.Min.Y-blockHigh+1, r.Max.X+blockWide-1, r.Max.Y+blockHigh-1)
	space = space.Intersect(now.bounds()).Intersect(was.bounds().Add(move))
	fits := func(line image.Rectangle) bool { return same(was, now, line, line.Min.Sub(move)) }
	for r.Min.Y > space.Min.Y && fits(image.Rect(r.Min.X, r.Min.Y-1, r.Max.X, r.Min.Y)) {
		r.Min.Y--
	}
	for r.Max.Y < space.Max.Y && fits(image.Rect(r.Min.X, r.Max.Y, r.Max.X, r.Max.Y+1)) {
		r.Max.Y++
	}
	for r.Min.X > space.Min.X && fits(image.Rect(r.Min.X-1, r.Min.Y, r.Min.X, r.Max.Y)) {
		r.Min.X--
	}
	for r.Max.X < space.Max.X && fits(image.Rect(r.Max.X, r.Min.Y, r.Max.X+1, r.Max.Y)) {
		r.Max.X++
	}
	return r
}
