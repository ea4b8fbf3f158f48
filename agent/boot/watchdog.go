// SPDX-License-Identifier: Apache-2.0

package boot

import (
	"fmt"
	"os"
	"unsafe"

	"sdbox/internal/ioctl"
)

// wdiocSetTimeout is WDIOC_SETTIMEOUT of linux/watchdog.h: _IOWR('W', 6, int).
const wdiocSetTimeout = 0xc0045706

// watchdog is the hardware that starts the machine again when nobody feeds it.
type watchdog struct{ file *os.File }

// openWatchdog arms the hardware: the machine starts again when feed is not called for the given seconds. The iTCO of Intel chip sets
// acts on its second expiry, so the hardware is told half.
func openWatchdog(path string, seconds int) (*watchdog, error) {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return nil, fmt.Errorf("watchdog: %w", err)
	}
	half := int32(max(seconds/2, 2))
	if err := ioctl.Do(f, wdiocSetTimeout, unsafe.Pointer(&half)); err != nil {
		f.Close() // without a last 'V' it stays armed, with the hardware's own time
		return nil, fmt.Errorf("watchdog: set %d s: %w", half, err)
	}
	w := &watchdog{f}
	return w, w.feed()
}

// feed gives the machine its time again.
func (w *watchdog) feed() error {
	if _, err := w.file.Write([]byte{0}); err != nil {
		return fmt.Errorf("watchdog: %w", err)
	}
	return nil
}
