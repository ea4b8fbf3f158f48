// SPDX-License-Identifier: Apache-2.0

package kiosk

import (
	"embed"
	"fmt"
	"image"
	"sort"
	"strings"
	"unicode"

	"golang.org/x/image/font"
	"golang.org/x/image/font/opentype"
	"golang.org/x/image/font/sfnt"
	"golang.org/x/image/math/fixed"
)

// weight is one of the embedded fonts.
type weight uint8

const (
	regular weight = iota
	medium
	bold // of the display cut: headlines and codes
	numWeights
)

//go:embed fonts/*.otf
var fontFiles embed.FS

// maxGlyphs bounds the cache of drawn glyphs: what people are called must not grow the box's memory.
const maxGlyphs = 4096

// maxText bounds, in bytes, what is looked at of one text: far more than fits any screen.
const maxText = 1024

// mostClinging bounds how many words a word takes along to the next line: an hour and a sign after it.
const mostClinging = 3

// fonts draws text with the embedded fonts and remembers each glyph it drew.
type fonts struct {
	parsed [numWeights]*opentype.Font
	faces  map[faceKey]font.Face
	glyphs map[glyphKey]glyph
	buf    sfnt.Buffer
}

type faceKey struct {
	weight weight
	size   int // pixels
}

type glyphKey struct {
	face faceKey
	r    rune
	part uint8 // quarter of a pixel the glyph starts at
}

// glyph is a drawn glyph: coverage, and where it lies from the pen's whole pixel.
type glyph struct {
	mask    []uint8
	box     image.Rectangle
	advance fixed.Int26_6
}

func newFonts() (*fonts, error) {
	f := new(fonts)
	f.reset()
	for w, name := range [numWeights]string{regular: "Inter-Regular", medium: "Inter-Medium", bold: "InterDisplay-SemiBold"} {
		data, err := fontFiles.ReadFile("fonts/" + name + ".otf")
		if err != nil {
			return nil, fmt.Errorf("embedded font: %w", err)
		}
		parsed, err := opentype.Parse(data)
		if err != nil {
			return nil, fmt.Errorf("embedded font %s: %w", name, err)
		}
		f.parsed[w] = parsed
	}
	return f, nil
}

// reset forgets all sizes drawn so far.
func (f *fonts) reset() {
	f.faces, f.glyphs = map[faceKey]font.Face{}, map[glyphKey]glyph{}
}

func (f *fonts) face(k faceKey) font.Face {
	if face, ok := f.faces[k]; ok {
		return face
	}
	face, err := opentype.NewFace(f.parsed[k.weight], &opentype.FaceOptions{Size: float64(k.size), DPI: 72})
	if err != nil {
		panic("kiosk: embedded font has no face: " + err.Error()) // NewFace fails for a nil font only
	}
	f.faces[k] = face
	return face
}

// glyph returns the drawing of one character that starts part quarters of a pixel right of a whole one.
func (f *fonts) glyph(k faceKey, r rune, part uint8) glyph {
	key := glyphKey{k, r, part}
	if g, ok := f.glyphs[key]; ok {
		return g
	}
	if len(f.glyphs) >= maxGlyphs {
		clear(f.glyphs)
	}
	dot := fixed.Point26_6{X: fixed.Int26_6(part) * 16}
	box, mask, at, advance, ok := f.face(k).Glyph(dot, r)
	g := glyph{advance: advance}
	if alpha, isAlpha := mask.(*image.Alpha); ok && isAlpha {
		g.box = box
		g.mask = make([]uint8, box.Dx()*box.Dy())
		for y := range box.Dy() {
			copy(g.mask[y*box.Dx():(y+1)*box.Dx()], alpha.Pix[alpha.PixOffset(at.X, at.Y+y):])
		}
	}
	f.glyphs[key] = g
	return g
}

// kern returns how much closer two characters stand. (The face's own Kern answers in the font's units.)
func (f *fonts) kern(k faceKey, prev, r rune) fixed.Int26_6 {
	if prev < 0 {
		return 0
	}
	parsed := f.parsed[k.weight]
	a, err := parsed.GlyphIndex(&f.buf, prev)
	if err != nil {
		return 0
	}
	b, err := parsed.GlyphIndex(&f.buf, r)
	if err != nil {
		return 0
	}
	kern, err := parsed.Kern(&f.buf, a, b, fixed.I(k.size), font.HintingNone)
	if err != nil { // no such pair
		return 0
	}
	return kern
}

// width returns the width of a line in pixels.
func (f *fonts) width(k faceKey, s string) int {
	var x fixed.Int26_6
	prev := rune(-1)
	for _, r := range s {
		x += f.kern(k, prev, r)
		x += f.glyph(k, r, 0).advance
		prev = r
	}
	return x.Ceil()
}

// draw writes one line with its baseline's left end at x,y and returns where it ended.
func (f *fonts) draw(c canvas, k faceKey, x, y int, rgb uint32, s string) int {
	pen := fixed.I(x)
	prev := rune(-1)
	for _, r := range s {
		pen += f.kern(k, prev, r)
		g := f.glyph(k, r, uint8(pen&63)/16)
		c.stamp(g, image.Pt(pen.Floor(), y), rgb)
		pen += g.advance
		prev = r
	}
	return pen.Ceil()
}

// stamp blends a glyph's coverage at a pen position.
func (c canvas) stamp(g glyph, pen image.Point, rgb uint32) {
	at := g.box.Add(pen)
	r := at.Intersect(c.clip)
	for y := r.Min.Y; y < r.Max.Y; y++ {
		mask := g.mask[(y-at.Min.Y)*g.box.Dx()+r.Min.X-at.Min.X:]
		row := c.img.Row(y, r.Min.X, r.Max.X)
		for i := range r.Dx() {
			if m := uint32(mask[i]); m > 0 {
				blend(row[i*4:i*4+4], rgb, m+m>>7) // 255 becomes 256
			}
		}
	}
}

// shorten cuts a line to a width in pixels, with an ellipsis.
func (f *fonts) shorten(k faceKey, s string, width int) string {
	if len(s) <= maxText && f.width(k, s) <= width {
		return s
	}
	runes := []rune(s[:min(len(s), maxText)])
	cut := func(n int) string { return strings.TrimRight(string(runes[:n]), " ,.;:") + "…" }
	n := sort.Search(len(runes), func(n int) bool { return f.width(k, cut(n+1)) > width })
	return cut(n)
}

// wrap breaks a text into lines of at most a width in pixels, and at most limit lines; a word wider than a line is cut. What
// clings to the word before it takes that along.
func (f *fonts) wrap(k faceKey, s string, width, limit int) []string {
	var lines []string
	line := ""
	words := strings.Fields(s[:min(len(s), maxText)])
	for i, w := range words {
		longer := strings.TrimSpace(line + " " + w)
		if line == "" || f.width(k, longer) <= width {
			line = longer
			continue
		}
		if len(lines) == limit-1 {
			line += " " + strings.Join(words[i:], " ")
			break
		}
		for range mostClinging {
			cut := strings.LastIndexByte(line, ' ')
			if cut < 0 || !clings(w) || f.width(k, line[cut+1:]+" "+w) > width {
				break
			}
			line, w = line[:cut], line[cut+1:]+" "+w
		}
		lines = append(lines, f.shorten(k, line, width))
		line = w
	}
	if line != "" {
		lines = append(lines, f.shorten(k, line, width))
	}
	return lines
}

// clings says whether a text may not begin a line: with a sign that French sets a space before, a number, a code or an hour.
func clings(s string) bool {
	w, _, _ := strings.Cut(s, " ")
	sign := strings.ContainsFunc(w, func(r rune) bool { return !unicode.IsLetter(r) })
	return w == "h" || sign && !strings.ContainsFunc(w, unicode.IsLower)
}
