// SPDX-License-Identifier: Apache-2.0

package boot

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// floorClock sets the clock to when the image was built if it says that this is still to come: a box whose battery is empty, or which
// somebody set back, must not take certificates that ended since. Only PID 1 may set the clock, and it does so once, before anything reads
// it; so it never goes back. It returns by how much the clock was wrong.
func floorClock(built time.Time) (time.Duration, error) {
	behind := time.Until(built)
	if behind <= 0 {
		return 0, nil
	}
	t := unix.NsecToTimespec(built.UnixNano())
	if err := unix.ClockSettime(unix.CLOCK_REALTIME, &t); err != nil {
		return behind, fmt.Errorf("set the clock to %s: %w", built.UTC().Format(time.RFC3339), err)
	}
	return behind, nil
}
