// SPDX-License-Identifier: Apache-2.0

package screen

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"slices"
)

// mode is one way a monitor can be driven. raw is struct drm_mode_modeinfo as the driver gave it, to be given back.
type mode struct {
	width, height int
	refresh       int // Hz
	preferred     bool
	interlaced    bool
	raw           [modeSize]byte
}

// parseMode reads struct drm_mode_modeinfo: u32 clock, five u16 of a line, five u16 of a picture, u32 refresh, flags, type, name[32].
func parseMode(raw [modeSize]byte) mode {
	return mode{
		width: int(binary.NativeEndian.Uint16(raw[4:])), height: int(binary.NativeEndian.Uint16(raw[14:])),
		refresh:    int(binary.NativeEndian.Uint32(raw[24:])),
		interlaced: binary.NativeEndian.Uint32(raw[28:])&modeFlagsInterlace != 0,
		preferred:  binary.NativeEndian.Uint32(raw[32:])&modePreferred != 0,
		raw:        raw,
	}
}

func (m mode) String() string {
	name, _, _ := bytes.Cut(m.raw[36:], []byte{0})
	return fmt.Sprintf("%q (%dx%d, %d Hz)", name, m.width, m.height, m.refresh)
}

// The smallest screen a person can work on, and how many modes are tried on a monitor that refuses one after the other.
const (
	minWidth, minHeight = 640, 480
	maxTries            = 8
)

// usable orders the modes worth trying, best first: the monitor's preferred one, then by size, then by refresh rate. One of each
// size is enough: what a driver refuses is the size of the buffer or the speed of the line.
func usable(modes []mode) []mode {
	var out []mode
	for _, m := range modes {
		if !m.interlaced && m.width >= minWidth && m.height >= minHeight && m.width <= MaxSide && m.height <= MaxSide {
			out = append(out, m)
		}
	}
	slices.SortStableFunc(out, func(a, b mode) int {
		switch {
		case a.preferred != b.preferred && a.preferred:
			return -1
		case a.preferred != b.preferred:
			return 1
		}
		return cmp.Or(cmp.Compare(b.width*b.height, a.width*a.height), cmp.Compare(b.refresh, a.refresh))
	})
	seen := map[[2]int]bool{}
	out = slices.DeleteFunc(out, func(m mode) bool {
		size := [2]int{m.width, m.height}
		again := seen[size]
		seen[size] = true
		return again
	})
	return out
}
