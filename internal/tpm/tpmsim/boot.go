// SPDX-License-Identifier: Apache-2.0

package tpmsim

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"sdbox/internal/tpm"
)

// Limits of a boot list, ours.
const (
	maxBootList = 65536 // bytes
	maxExtends  = 1024
)

//go:embed boot.txt
var recorded string

// Extend is one measurement of a boot: what the firmware, the boot stub or the kernel adds to a register.
type Extend struct {
	PCR    uint8
	Digest [32]byte
	What   string // for people
}

// RecordedBoot is the measurements of one real boot, recorded once from a virtual machine; boot.txt says which.
func RecordedBoot() ([]Extend, error) { return ParseBoot([]byte(recorded)) }

// ParseBoot reads a boot list: a line for each measurement, register, SHA-256 digest in hexadecimal, and words for people. Empty
// lines and lines that begin with # are skipped.
func ParseBoot(text []byte) ([]Extend, error) {
	if len(text) > maxBootList {
		return nil, fmt.Errorf("boot list of %d bytes, limit %d", len(text), maxBootList)
	}
	var list []Extend
	lines := bufio.NewScanner(bytes.NewReader(text))
	lines.Buffer(nil, maxBootList+1)
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		fields := strings.SplitN(line, " ", 3)
		if len(fields) < 2 {
			return nil, fmt.Errorf("boot list line %d: want register, digest, words", n)
		}
		pcr, err := strconv.ParseUint(fields[0], 10, 8)
		if err != nil || pcr > 23 {
			return nil, fmt.Errorf("boot list line %d: register %.20q: want 0 to 23", n, fields[0])
		}
		digest, err := hex.DecodeString(fields[1])
		if err != nil || len(digest) != sha256.Size {
			return nil, fmt.Errorf("boot list line %d: want 64 hexadecimal digits", n)
		}
		e := Extend{PCR: uint8(pcr), Digest: [32]byte(digest)}
		if len(fields) == 3 {
			e.What = fields[2]
		}
		if list = append(list, e); len(list) > maxExtends {
			return nil, fmt.Errorf("boot list has more than %d measurements", maxExtends)
		}
	}
	return list, lines.Err()
}

// Boot takes the simulated TPM behind a socket through a boot, as the firmware does before the agent runs. The TPM must have
// been switched on just before: Boot adds to what is there.
func Boot(socket string, list []Extend) (err error) {
	t, err := tpm.Open("unix:" + socket)
	if err != nil {
		return fmt.Errorf("replay boot: %w", err)
	}
	defer func() { err = errors.Join(err, t.Close()) }()
	for i, e := range list {
		if err := t.Extend(e.PCR, e.Digest); err != nil {
			return fmt.Errorf("replay boot, measurement %d (%s): %w", i+1, e.What, err)
		}
	}
	return nil
}

// Predict computes the values a boot list leaves in registers that begin at zero, without a TPM.
func Predict(list []Extend) map[uint8][32]byte {
	values := map[uint8][32]byte{}
	for _, e := range list {
		old := values[e.PCR]
		values[e.PCR] = sha256.Sum256(append(old[:], e.Digest[:]...))
	}
	return values
}
