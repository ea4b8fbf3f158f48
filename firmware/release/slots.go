// SPDX-License-Identifier: Apache-2.0

package release

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"

	"sdbox/firmware/efivar"
)

// Slot is one of the two EFI system partitions of a box's disk, each of which holds one whole system.
type Slot uint8

// The two slots.
const (
	A Slot = iota
	B
)

// Label is the name of the slot's partition in the partition table.
func (s Slot) Label() string { return [...]string{"sdbox-a", "sdbox-b"}[s] }

// entry is the number of the slot's boot option.
func (s Slot) entry() uint16 { return 0x5D0A + uint16(s) }

func (s Slot) option() string { return fmt.Sprintf("Boot%04X", s.entry()) }

func (s Slot) other() Slot { return 1 - s }

// Partition is where a slot lies, as its boot option has to say it.
type Partition struct {
	Number uint32
	Start  uint64 // first block of the disk
	Blocks uint64 // of the disk's own size
	GUID   efivar.GUID
	Size   int64 // in bytes
}

// Store is the bytes of a slot. What has been written is on the disk when Sync returns, and ReadAt after it reads the disk.
type Store interface {
	io.ReaderAt
	io.WriterAt
	Sync() error
	Close() error
}

// Disk is the disk a box starts from.
type Disk interface {
	// Partition says where a slot lies.
	Partition(Slot) Partition
	// Read opens the slot that runs, Write the idle one, for nobody else while it is open.
	Read(Slot) (io.ReaderAt, io.Closer, error)
	Write(Slot) (Store, error)
}

// Variables are the firmware's, *efivar.Files on a machine. A Write or Remove happens whole or not at all, and is durable on return.
// Read of a variable that is not there fails with fs.ErrNotExist; Remove of one does nothing.
type Variables interface {
	Read(name string) ([]byte, error)
	Write(name string, data []byte) error
	Remove(name string) error
}

const (
	bootVendor   = "-8be4df61-93ca-11d2-aa0d-00e098032b8c" // UEFI 2.10, 3.3: global variables
	loaderVendor = "-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f" // systemd.io/BOOT_LOADER_INTERFACE
	trialName    = "SdboxTrial-5d0bc0de-5d0a-4d0b-8e1f-0a5f0b1d2c3e"
	maxOrder     = 256
)

// MaxTries is how often a release is started that does not come to a commit.
const MaxTries = 3

// Slots are the two slots of the machine that this program runs on. Not safe for concurrent use.
//
// What its firmware boots is a state machine of three variables; each arrow is one write of one of them, and between any two of them
// the machine may lose power:
//
//	             Install: SdboxTrial = B, then BootNext = B          firmware: BootNext gone, boots B
//	[A runs, order A,B] -----------------------------> [A runs, armed] ------------------> [B runs, order A,B: trial]
//	        ^                                                                                |            |
//	        |             panic, hang, power cut, no health in time: firmware boots A        |            | Commit: BootOrder = B,A
//	        +--------------------------------------------------------------------------------+            v
//	                                                                                     [B runs, order B,A]
//
// The slot that runs is never written, and the idle one cannot be booted before its bytes have been read back.
type Slots struct {
	variables Variables
	disk      Disk
	shape     shape
}

// NewSlots joins a disk and the variables of the firmware that booted from it.
func NewSlots(variables Variables, disk Disk) *Slots { return &Slots{variables, disk, product()} }

// State is what a machine runs and how it came to that.
type State struct {
	Running Slot
	Trial   bool     // the running slot was tried once by BootNext and has not been committed
	Tried   [32]byte // SHA-256 of the image that was armed last and has not been committed
	Tries   int      // how often; with Trial false, that often it did not come to a commit
}

// ErrNoSlot says that the firmware did not boot from a slot of this disk: nothing can be installed.
var ErrNoSlot = errors.New("this system was not started from a slot of the disk")

// State reads which slot runs.
func (s *Slots) State() (State, error) {
	running, err := s.running()
	if err != nil {
		return State{}, err
	}
	order, err := s.order()
	if err != nil {
		return State{}, err
	}
	t, err := s.trial()
	if err != nil {
		return State{}, err
	}
	return State{running, t.tries > 0 && t.slot == running && first(order) != running.entry(), t.image, t.tries}, nil
}

// Settle is called at each start, before anything else: it writes the slots' boot options where they differ and names them in the
// boot order, and ends a commit that was cut off. It changes no choice that has been made.
func (s *Slots) Settle() (State, error) {
	state, err := s.State()
	if err != nil {
		return State{}, err
	}
	for _, slot := range []Slot{A, B} {
		if err := s.set(slot.option()+bootVendor, loadOption(slot, s.disk.Partition(slot))); err != nil {
			return State{}, err
		}
	}
	order, err := s.order()
	if err != nil {
		return State{}, err
	}
	if !slices.Contains(order, A.entry()) || !slices.Contains(order, B.entry()) {
		head := state.Running
		if state.Trial || first(order) == head.other().entry() {
			head = head.other()
		}
		if err := s.setOrder(head, order); err != nil {
			return State{}, err
		}
	}
	if t, err := s.trial(); err != nil || t.tries == 0 || state.Trial || t.slot != state.Running {
		return state, err
	}
	state.Tried, state.Tries = [32]byte{}, 0
	return state, s.remove(trialName)
}

// Commit makes the slot that runs the one that is booted from now on. Without a trial it does nothing.
func (s *Slots) Commit() error {
	state, err := s.State()
	if err != nil || !state.Trial {
		return err
	}
	order, err := s.order()
	if err != nil {
		return err
	}
	if err := s.setOrder(state.Running, order); err != nil {
		return err
	}
	return s.remove(trialName)
}

// arm makes the idle slot the one that is booted once. The trial is written before BootNext, else a cut between them would start a
// system that does not know that it is on trial.
func (s *Slots) arm(idle Slot, image [32]byte, tries int) error {
	if err := s.set(trialName, trial{idle, tries, image}.bytes()); err != nil {
		return err
	}
	return s.set("BootNext"+bootVendor, binary.LittleEndian.AppendUint16(nil, idle.entry()))
}

// disarm takes care that the firmware boots the running slot whatever happens to the idle one.
func (s *Slots) disarm(running Slot) error {
	if err := s.remove("BootNext" + bootVendor); err != nil {
		return err
	}
	order, err := s.order()
	if err != nil {
		return err
	}
	return s.setOrder(running, order)
}

// running asks the firmware which boot option it took, and where that is none of ours, as at the first start of a new disk, the
// program's own stub which partition it came from.
func (s *Slots) running() (Slot, error) {
	current, err := s.get("BootCurrent"+bootVendor, 2)
	if err != nil {
		return 0, err
	}
	if len(current) == 2 {
		for _, slot := range []Slot{A, B} {
			if binary.LittleEndian.Uint16(current) == slot.entry() {
				return slot, nil
			}
		}
	}
	uuid, err := s.get("LoaderDevicePartUUID"+loaderVendor, 128)
	if err != nil {
		return 0, err
	}
	for _, slot := range []Slot{A, B} {
		if strings.EqualFold(narrow(uuid), s.disk.Partition(slot).GUID.String()) {
			return slot, nil
		}
	}
	return 0, ErrNoSlot
}

// order is the boot order; none is an empty one.
func (s *Slots) order() ([]uint16, error) {
	data, err := s.get("BootOrder"+bootVendor, 2*maxOrder)
	if err != nil {
		return nil, err
	}
	order := make([]uint16, len(data)/2)
	for i := range order {
		order[i] = binary.LittleEndian.Uint16(data[2*i:])
	}
	return order, nil
}

// setOrder puts the slots first, and keeps the order of what others have written there.
func (s *Slots) setOrder(head Slot, order []uint16) error {
	data := binary.LittleEndian.AppendUint16(nil, head.entry())
	data = binary.LittleEndian.AppendUint16(data, head.other().entry())
	for _, entry := range order {
		if entry != A.entry() && entry != B.entry() {
			data = binary.LittleEndian.AppendUint16(data, entry)
		}
	}
	return s.set("BootOrder"+bootVendor, data)
}

// first is the slot's entry that the firmware boots by itself, or 0.
func first(order []uint16) uint16 {
	for _, entry := range order {
		if entry == A.entry() || entry == B.entry() {
			return entry
		}
	}
	return 0
}

// trial is the variable that outlives a start: which slot was armed with what, how often.
type trial struct {
	slot  Slot
	tries int // 0: none
	image [32]byte
}

func (t trial) bytes() []byte { return append([]byte{byte(t.slot), byte(t.tries)}, t.image[:]...) }

// trial reads the variable; what this program did not write counts as none.
func (s *Slots) trial() (trial, error) {
	data, err := s.get(trialName, 34)
	if err != nil || len(data) != 34 || data[0] > 1 {
		return trial{}, err
	}
	return trial{Slot(data[0]), int(data[1]), [32]byte(data[2:])}, nil
}

// get reads a variable that may be missing, and cuts what is longer.
func (s *Slots) get(name string, limit int) ([]byte, error) {
	data, err := s.variables.Read(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	return data[:min(len(data), limit)], nil
}

// set writes a variable when it holds something else: each write wears the firmware's memory.
func (s *Slots) set(name string, data []byte) error {
	if old, err := s.variables.Read(name); err == nil && string(old) == string(data) {
		return nil
	}
	if err := s.variables.Write(name, data); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return nil
}

func (s *Slots) remove(name string) error {
	if err := s.variables.Remove(name); err != nil {
		return fmt.Errorf("remove %s: %w", name, err)
	}
	return nil
}
