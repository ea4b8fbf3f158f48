// SPDX-License-Identifier: Apache-2.0

package boot

import (
	"crypto/sha256"
	"errors"
	"io/fs"

	"sdbox/firmware/eventlog"
)

// returned is what a firmware measures into register 4 when a program it tried did not start, or came back (TCG PC Client Platform
// Firmware Profile 1.06, 3.3.4.5).
const returned = "Returning from EFI Application from Boot Option"

// triedAnother says whether this machine's firmware tried another program before this system, in the same start. A machine without a
// log says no.
func triedAnother(path string) (bool, error) {
	log, err := eventlog.Read(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	for _, e := range log.Of(4) {
		if e.Digest == sha256.Sum256([]byte(returned)) {
			return true, nil
		}
	}
	return false, nil
}

// tryAgain looks, once, whether the firmware refused the idle slot in this very start. The centre refuses such a box, whose registers
// are in no reference; the next start is as any other.
func (i *installer) tryAgain() {
	another, err := triedAnother(i.measured)
	if err == nil && another {
		i.again, err = i.slots.Again()
	}
	if err != nil {
		i.log.Warn("whether the firmware tried another slot", "err", err)
	}
}
