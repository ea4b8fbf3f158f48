// SPDX-License-Identifier: Apache-2.0

package vm

// Firmware is what a machine starts with that boots from a disk: OVMF.
type Firmware struct {
	Code      string // flash image of the program, as Debian's package ovmf has it
	Variables string // flash image of the variables; the machine writes to it
	Disk      string // raw image of the disk it boots from; the machine writes to it
}
