// SPDX-License-Identifier: Apache-2.0

package vm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"sdbox/agent/screen"
)

// Size of the machine's display, pixels.
const (
	Width  = 1920
	Height = 1080
)

// maxPicture bounds a file of screendump.
const maxPicture = 3*screen.MaxSide*screen.MaxSide + 64

const dumpFile = "screen.ppm"

// Picture is what QEMU shows on the machine's display now, by its screendump: the pixels the guest scans out, without a cursor of
// the display's own. Safe for several goroutines; they take turns.
func (v *VM) Picture(ctx context.Context) (*screen.Image, error) {
	v.dumping.Lock()
	defer v.dumping.Unlock()
	err := v.monitor.run(ctx, "screendump", map[string]string{"filename": filepath.Join(v.cfg.inside(), dumpFile), "device": "video"}, nil)
	if err != nil {
		return nil, err
	}
	path := filepath.Join(v.cfg.Dir, dumpFile)
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.Size() > maxPicture {
		return nil, fmt.Errorf("picture of %d bytes, limit %d", info.Size(), maxPicture)
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	return parsePPM(raw)
}

// parsePPM reads a picture of 8-bit colours (netpbm's ppm(5), raw form, as QEMU writes it).
func parsePPM(raw []byte) (*screen.Image, error) {
	var width, height, deepest int
	if n, err := fmt.Sscanf(string(raw[:min(len(raw), 32)]), "P6\n%d %d\n%d\n", &width, &height, &deepest); n != 3 || err != nil || deepest != 255 {
		return nil, errors.New("picture: not a PPM of 8-bit colours")
	}
	if width < 1 || height < 1 || width > screen.MaxSide || height > screen.MaxSide {
		return nil, fmt.Errorf("picture of %dx%d pixels", width, height)
	}
	head := len(fmt.Sprintf("P6\n%d %d\n255\n", width, height))
	if len(raw) != head+3*width*height {
		return nil, fmt.Errorf("picture of %dx%d pixels in %d bytes", width, height, len(raw))
	}
	raw = raw[head:]
	img := screen.NewImage(width, height)
	for y := range height {
		row := img.Row(y, 0, width)
		for i := 0; i < len(row); i += 4 {
			row[i], row[i+1], row[i+2] = raw[2], raw[1], raw[0]
			raw = raw[3:]
		}
	}
	return img, nil
}
