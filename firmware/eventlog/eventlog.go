// SPDX-License-Identifier: Apache-2.0

// Package eventlog reads what a machine's firmware measured before its kernel ran: the crypto-agile TCG event log, of which it keeps
// the SHA-256 bank. The bytes may come from anyone: a box sends its log to the gateway.
//
// A log proves nothing by itself. It explains registers: replayed it must give the values that a TPM quoted. And of an event only the
// digest is covered by that, neither type nor data; who wants to know what was measured compares the digest with that of what he expects.
package eventlog

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
)

// Limits of a log, ours. Seen: 35 to 38 events, data of 971 bytes, logs of 11 KiB with four banks.
const (
	MaxLog    = 64 << 10 // bytes
	MaxEvents = 1024
	maxData   = 16 << 10 // bytes of one event
)

// Registers is how many registers a TPM for PCs has (PC Client Platform TPM Profile 1.05, 4.6).
const Registers = 24

const (
	maxAlgorithms = 8 // banks of a log, ours
	maxDigest     = 64
	sha1Size      = 20
	algSHA256     = 0x000b // TPM_ALG_SHA256 (TCG Algorithm Registry)
)

// specID begins the data of a crypto-agile log's first event (TCG PFP 1.05, 10.4.5.1).
const specID = "Spec ID Event03\x00"

// startup begins the data of the event that says from which locality the TPM was started (TCG PFP 1.05, 10.4.5.3).
const startup = "StartupLocality\x00"

// errLog is wrapped by every error about bytes that are no log within our limits.
var errLog = errors.New("not an event log")

// Log is the measurements of one boot, in order. What was logged and not measured (EV_NO_ACTION) is left out.
type Log struct {
	Events []Event

	// Locality is where the TPM was started from: 3 or 4 if something measured before the firmware, else 0. Register 0 begins with it.
	Locality uint8
}

// Event is one measurement.
type Event struct {
	PCR    uint8 // less than Registers
	Type   Type
	Digest [sha256.Size]byte // of the SHA-256 bank: what the register was extended with
	Data   []byte            // what the firmware says about it
}

// Read reads the log of the machine this program runs on: on Linux /sys/kernel/security/tpm0/binary_bios_measurements.
func Read(path string) (*Log, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("event log: %w", err)
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, MaxLog+1))
	if err != nil {
		return nil, fmt.Errorf("event log %s: %w", path, err)
	}
	return Parse(raw)
}

// Parse reads a log (TCG PC Client Platform Firmware Profile 1.05, 10.2). Every event must have a digest of each bank the log
// declares, SHA-256 among them. Data points into raw.
func Parse(raw []byte) (*Log, error) {
	if len(raw) > MaxLog {
		return nil, fmt.Errorf("%w: over %d bytes", errLog, MaxLog)
	}
	r := &reader{rest: raw}
	banks, err := r.header()
	if err != nil {
		return nil, fmt.Errorf("%w: header: %w", errLog, err)
	}
	log := &Log{}
	for n := 1; len(r.rest) > 0; n++ {
		if n > MaxEvents {
			return nil, fmt.Errorf("%w: over %d events", errLog, MaxEvents)
		}
		if err := r.event(log, banks); err != nil {
			return nil, fmt.Errorf("%w: event %d: %w", errLog, n, err)
		}
	}
	return log, nil
}

// reader takes a log apart from the front.
type reader struct{ rest []byte }

var errShort = errors.New("it ends early")

func (r *reader) take(n int) ([]byte, error) {
	if n < 0 || n > len(r.rest) {
		return nil, errShort
	}
	out := r.rest[:n:n]
	r.rest = r.rest[n:]
	return out, nil
}

func (r *reader) uint16() (uint16, error) {
	b, err := r.take(2)
	if err != nil {
		return 0, err
	}
	return binary.LittleEndian.Uint16(b), nil
}

func (r *reader) uint32() (uint32, error) {
	b, err := r.take(4)
	if err != nil {
		return 0, err
	}
	return binary.LittleEndian.Uint32(b), nil
}

// data is a length and as many bytes.
func (r *reader) data() ([]byte, error) {
	n, err := r.uint32()
	if err != nil {
		return nil, err
	}
	if n > maxData {
		return nil, fmt.Errorf("data of %d bytes, limit %d", n, maxData)
	}
	return r.take(int(n))
}

// bank is a hash the log declares, and how long its digests are.
type bank struct {
	algorithm uint16
	size      int
}

// header is the first event: one in the form of TPM 1.2 that says how the others look (TCG PFP 1.05, 10.4.5.1).
func (r *reader) header() ([]bank, error) {
	index, err1 := r.uint32()
	kind, err2 := r.uint32()
	_, err3 := r.take(sha1Size)
	data, err4 := r.data()
	if err := errors.Join(err1, err2, err3, err4); err != nil {
		return nil, err
	}
	if index != 0 || Type(kind) != NoAction || !bytes.HasPrefix(data, []byte(specID)) {
		return nil, errors.New("want a crypto-agile log, with several hashes")
	}
	in := &reader{rest: data[len(specID):]}
	if _, err := in.take(8); err != nil { // platform class, version, errata, size of a UINTN
		return nil, err
	}
	return in.banks()
}

func (r *reader) banks() ([]bank, error) {
	n, err := r.uint32()
	if err != nil {
		return nil, err
	}
	if n > maxAlgorithms {
		return nil, fmt.Errorf("%d hashes, limit %d", n, maxAlgorithms)
	}
	var banks []bank
	found := false
	for range n {
		algorithm, err1 := r.uint16()
		size, err2 := r.uint16()
		if err := errors.Join(err1, err2); err != nil {
			return nil, err
		}
		if size == 0 || size > maxDigest || algorithm == algSHA256 && (size != sha256.Size || found) {
			return nil, fmt.Errorf("hash %#x with digests of %d bytes", algorithm, size)
		}
		found = found || algorithm == algSHA256
		banks = append(banks, bank{algorithm, int(size)})
	}
	vendor, err := r.take(1)
	if err != nil {
		return nil, err
	}
	if len(r.rest) != int(vendor[0]) {
		return nil, errors.New("more or less than its structure has")
	}
	if !found {
		return nil, errors.New("it has no SHA-256 digests")
	}
	return banks, nil
}

// event reads a TCG_PCR_EVENT2 (TCG PFP 1.05, 10.2.2).
func (r *reader) event(log *Log, banks []bank) error {
	index, err1 := r.uint32()
	kind, err2 := r.uint32()
	digest, err3 := r.digests(banks)
	if err := errors.Join(err1, err2, err3); err != nil {
		return err
	}
	data, err := r.data()
	if err != nil {
		return err
	}
	if Type(kind) == NoAction { // of any register, 0xffffffff too
		if len(data) == len(startup)+1 && bytes.HasPrefix(data, []byte(startup)) {
			log.Locality = data[len(startup)]
		}
		return nil
	}
	if index >= Registers {
		return fmt.Errorf("register %d, there are %d", index, Registers)
	}
	log.Events = append(log.Events, Event{PCR: uint8(index), Type: Type(kind), Digest: digest, Data: data})
	return nil
}

// digests wants one of each bank, in the order they were declared in, and returns that of SHA-256.
func (r *reader) digests(banks []bank) (sha [sha256.Size]byte, err error) {
	n, err := r.uint32()
	if err != nil {
		return sha, err
	}
	if int64(n) != int64(len(banks)) {
		return sha, fmt.Errorf("%d digests, the log has %d hashes", n, len(banks))
	}
	for _, b := range banks {
		algorithm, err := r.uint16()
		if err != nil {
			return sha, err
		}
		if algorithm != b.algorithm {
			return sha, fmt.Errorf("a digest of hash %#x in place of %#x", algorithm, b.algorithm)
		}
		digest, err := r.take(b.size)
		if err != nil {
			return sha, err
		}
		if algorithm == algSHA256 {
			copy(sha[:], digest)
		}
	}
	return sha, nil
}

// Encode writes the log with its SHA-256 bank alone: what Parse reads as the same log.
func (l *Log) Encode() []byte {
	le := binary.LittleEndian
	spec := append([]byte(specID), 0, 0, 0, 0, 0, 2, 0, 2) // a client platform, version 2.0, UINTN of 8 bytes
	spec = le.AppendUint16(le.AppendUint16(le.AppendUint32(spec, 1), algSHA256), sha256.Size)
	spec = append(spec, 0)
	out := append(le.AppendUint32(le.AppendUint32(nil, 0), uint32(NoAction)), make([]byte, sha1Size)...)
	out = append(le.AppendUint32(out, uint32(len(spec))), spec...)
	if l.Locality != 0 {
		out = Event{Type: NoAction, Data: append([]byte(startup), l.Locality)}.append(out)
	}
	for _, e := range l.Events {
		out = e.append(out)
	}
	return out
}

func (e Event) append(out []byte) []byte {
	le := binary.LittleEndian
	out = le.AppendUint32(le.AppendUint32(out, uint32(e.PCR)), uint32(e.Type))
	out = le.AppendUint16(le.AppendUint32(out, 1), algSHA256)
	out = append(out, e.Digest[:]...)
	return append(le.AppendUint32(out, uint32(len(e.Data))), e.Data...)
}

// Replay computes what the log leaves in the registers, which begin at zero, register 0 with the locality in its last byte
// (TCG PFP 1.05, 3.3.4.1).
func (l *Log) Replay() [Registers][sha256.Size]byte {
	var values [Registers][sha256.Size]byte
	values[0][sha256.Size-1] = l.Locality
	for _, e := range l.Events {
		old := &values[e.PCR]
		*old = sha256.Sum256(append(old[:], e.Digest[:]...))
	}
	return values
}

// Of returns the events of one register, in order.
func (l *Log) Of(register uint8) []Event {
	var list []Event
	for _, e := range l.Events {
		if e.PCR == register {
			list = append(list, e)
		}
	}
	return list
}
