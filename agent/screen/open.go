// SPDX-License-Identifier: Apache-2.0

package screen

import (
	"errors"
	"path/filepath"
)

// Open opens the machine's screen under dev, normally /dev: the first display adapter with a monitor, else the framebuffer that the
// firmware left. The error is ErrNoDisplay when there is neither.
func Open(dev string) (*Display, error) {
	paths, err := filepath.Glob(filepath.Join(dev, "dri", "card*")) // in the order of their names
	if err != nil {
		return nil, err
	}
	var trouble error
	for _, path := range paths {
		d, err := OpenDRM(path)
		if err == nil {
			return d, nil
		}
		trouble = errors.Join(trouble, err)
	}
	d, err := OpenFramebuffer(filepath.Join(dev, "fb0"))
	if err == nil {
		return d, nil
	}
	return nil, errors.Join(ErrNoDisplay, trouble, err)
}
