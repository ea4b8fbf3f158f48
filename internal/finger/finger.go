// SPDX-License-Identifier: Apache-2.0

// Package finger brings a person's finger, as a list of minutiae, from the sensor to whoever asks the card. It compares
// nothing: the card does. A template is personal data: callers wipe it once the card has answered, and never log it.
package finger

import (
	"errors"
	"fmt"
)

// MaxMinutiae is the largest template: 255 bytes, what one short command to a card carries.
const MaxMinutiae = 85

// Size is the length of one minutia in the compact card format (ISO/IEC 19794-2, 8.2).
const Size = 3

// Type is what a ridge does at a minutia.
type Type uint8

// The types of the compact card format.
const (
	Other       Type = 0
	Ending      Type = 1
	Bifurcation Type = 2
)

// Minutia is a place where a ridge ends or splits, in the compact card format of ISO/IEC 19794-2, 8.2.
type Minutia struct {
	X, Y  uint8 // 0.1 mm; x grows right, y grows down
	Type  Type
	Angle uint8 // 0..63 in steps of 360/64 degrees, counter-clockwise from the right
}

// Template is one impression of a finger, best minutiae first: a reader that must shorten it drops the tail.
type Template []Minutia

// errTemplate begins every refusal of Parse.
var errTemplate = errors.New("finger template")

// Parse reads a template in the compact card format. It refuses empty and over-long lists, cut minutiae and unknown types.
func Parse(b []byte) (Template, error) {
	if len(b) == 0 || len(b)%Size != 0 || len(b) > MaxMinutiae*Size {
		return nil, fmt.Errorf("%w: %d bytes: want 1 to %d minutiae of %d bytes", errTemplate, len(b), MaxMinutiae, Size)
	}
	t := make(Template, len(b)/Size)
	for i := range t {
		m := b[i*Size:]
		t[i] = Minutia{X: m[0], Y: m[1], Type: Type(m[2] >> 6), Angle: m[2] & 0x3F}
		if t[i].Type > Bifurcation {
			return nil, fmt.Errorf("%w: minutia %d has the reserved type %d", errTemplate, i, t[i].Type)
		}
	}
	return t, nil
}

// Encode writes the compact card format, Size bytes for each minutia. A template longer than MaxMinutiae is cut.
func (t Template) Encode() []byte {
	t = t[:min(len(t), MaxMinutiae)]
	b := make([]byte, 0, len(t)*Size)
	for _, m := range t {
		b = append(b, m.X, m.Y, byte(m.Type&3)<<6|m.Angle&0x3F)
	}
	return b
}

// Wipe overwrites the template in place.
func (t Template) Wipe() { clear(t) }
