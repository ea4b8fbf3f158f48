// SPDX-License-Identifier: Apache-2.0

package tpmsim

import (
	_ "embed"
	"errors"
	"fmt"

	"sdbox/firmware/eventlog"
	"sdbox/internal/tpm"
)

//go:embed boot.log
var recorded string

// RecordedBoot is the event log of one real boot, as Linux gave it. It was recorded on 2026-11-24 from a virtual machine: QEMU 7.2
// (q35, TCG, tpm-crb with swtpm 0.7.1), OVMF 2022.11-6 with Secure Boot on and Debian's test keys in it, a signed unified kernel
// image of systemd-stub 252.39 and Linux 6.12.117. Register 10 (IMA) is not in it: it counts what runs after the boot.
func RecordedBoot() (*eventlog.Log, error) { return eventlog.Parse([]byte(recorded)) }

// Boot takes the simulated TPM behind a socket through a boot, as the firmware does before the agent runs. The TPM must have
// been switched on just before: Boot adds to what is there.
func Boot(socket string, log *eventlog.Log) (err error) {
	t, err := tpm.Open("unix:" + socket)
	if err != nil {
		return fmt.Errorf("replay boot: %w", err)
	}
	defer func() { err = errors.Join(err, t.Close()) }()
	for i, e := range log.Events {
		if err := t.Extend(e.PCR, e.Digest); err != nil {
			return fmt.Errorf("replay boot, measurement %d (%s): %w", i+1, e, err)
		}
	}
	return nil
}
