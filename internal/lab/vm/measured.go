// SPDX-License-Identifier: Apache-2.0

package vm

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"

	"sdbox/firmware/eventlog"
)

// Model names what a machine of this configuration is to its TPM: the firmware, QEMU's version and the devices. Machines of one model
// measure the same before their image.
func Model(ctx context.Context, c Config) (string, error) {
	sum := sha256.New()
	code, err := os.Open(firmwareCode)
	if err != nil {
		return "", fmt.Errorf("model of the machine (package ovmf): %w", err)
	}
	defer code.Close()
	if _, err := io.Copy(sum, code); err != nil {
		return "", fmt.Errorf("model of the machine: %w", err)
	}
	version, err := exec.CommandContext(ctx, qemu, "--version").Output()
	if err != nil {
		return "", fmt.Errorf("model of the machine (package qemu-system-x86): %w", err)
	}
	c.Dir, c.Inside, c.Accelerator, c.Isolated = "/", "/", TCG, false
	c.Firmware = &Firmware{Variables: "variables", Disk: "disk"}
	fmt.Fprintf(sum, "%s%q", version, c.arguments())
	return fmt.Sprintf("%x", sum.Sum(nil)[:10]), nil
}

// Where Linux keeps what the firmware measured: a copy of the firmware's log, behind its size, the size of what the firmware had
// already put into its table of late events by then, and a version (Linux, include/linux/efi.h, struct linux_efi_tpm_eventlog);
// and that table itself (TCG EFI Protocol 1.0, 7): version 1, number of events, events, from the beginning of a page on.
const (
	page       = 4096
	chunk      = 32 << 20
	chunkFile  = "memory"
	firstEvent = 32 // bytes of the first event before its data (TCG PFP 1.05, 10.4.5.1)
	copyHeader = 9
	lateHeader = 16
	maxLate    = 64 // events, ours
)

// FirmwareLog is what the machine's firmware has measured until its system ran, read in the guest's memory. The guest is not asked.
func (v *VM) FirmwareLog(ctx context.Context) (*eventlog.Log, error) {
	path := filepath.Join(v.cfg.Dir, chunkFile)
	defer os.Remove(path)
	var early []byte
	var late [][]byte
	skip := 0
	for at := v.cfg.memory()<<20 - chunk; at >= 0; at -= chunk {
		err := v.Command(ctx, "pmemsave", map[string]any{"val": at, "size": chunk, "filename": filepath.Join(v.cfg.inside(), chunkFile)}, nil)
		if err != nil {
			return nil, err
		}
		memory, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		if early == nil {
			early, skip = findCopy(memory)
		}
		late = append(late, findLate(memory)...)
	}
	if early == nil {
		return nil, errors.New("no event log in the machine's memory")
	}
	for _, events := range late { // other things look like the table, but make no log
		if log, err := eventlog.Parse(append(bytes.Clone(early), events[min(skip, len(events)):]...)); err == nil && len(events) > skip {
			return log, nil
		}
	}
	return eventlog.Parse(early)
}

// findCopy looks for Linux's copy of a log that is one, and returns how much of the late events it has already.
func findCopy(memory []byte) (log []byte, late int) {
	for at := 0; ; at++ {
		found := bytes.Index(memory[at:], []byte("Spec ID Event03\x00"))
		if found < 0 {
			return nil, 0
		}
		at += found
		head := at - firstEvent - copyHeader
		if head < 0 {
			continue
		}
		size, late := uint64(number(memory, head)), number(memory, head+4)
		if size > eventlog.MaxLog || head+copyHeader+int(size) > len(memory) {
			continue
		}
		log := memory[head+copyHeader:][:size]
		if parsed, err := eventlog.Parse(log); err == nil && len(parsed.Events) > 0 {
			return bytes.Clone(log), int(late)
		}
	}
}

// findLate looks for what may be a table of late events, and returns the events of each.
func findLate(memory []byte) (tables [][]byte) {
	for at := 0; at+page <= len(memory); at += page {
		version, events := binary.LittleEndian.Uint64(memory[at:]), binary.LittleEndian.Uint64(memory[at+8:])
		if version != 1 || events == 0 || events > maxLate {
			continue
		}
		end := at + lateHeader
		for range events {
			end = eventEnd(memory, end)
		}
		if end > at+lateHeader && end <= len(memory) {
			tables = append(tables, bytes.Clone(memory[at+lateHeader:end]))
		}
	}
	return tables
}

// eventEnd is where the event at an offset ends (TCG PFP 1.05, 10.2.2), past the memory where none is.
func eventEnd(memory []byte, at int) int {
	digests := number(memory, at+8)
	if digests == 0 || digests > 8 {
		return len(memory) + 1
	}
	end := at + 12
	for range digests {
		size, known := map[uint32]int{0x4: 20, 0xb: 32, 0xc: 48, 0xd: 64, 0x12: 32}[number(memory, end)&0xFFFF] // TCG Algorithm Registry
		if !known {
			return len(memory) + 1
		}
		end += 2 + size
	}
	return end + 4 + int(min(number(memory, end), 1<<20))
}

// number reads 32 bits, 0 past the end.
func number(memory []byte, at int) uint32 {
	if at < 0 || at+4 > len(memory) {
		return 0
	}
	return binary.LittleEndian.Uint32(memory[at:])
}
