// SPDX-License-Identifier: Apache-2.0

package vm

import (
	"fmt"
	"os"
	"path/filepath"

	"sdbox/firmware/efivar"
)

// What Debian's package ovmf has: the firmware with Secure Boot, and its variables as a machine leaves the factory.
const (
	firmwareCode     = "/usr/share/OVMF/OVMF_CODE_4M.secboot.fd"
	factoryVariables = "/usr/share/OVMF/OVMF_VARS_4M.fd"
)

// Firmware is what a machine starts with that boots from a disk: OVMF. Paths are QEMU's (see Config.Inside); the machine writes to both.
type Firmware struct {
	Variables string // flash image of the variables: MakeVariables, or of a boot before
	Disk      string // raw image of the disk
}

// MakeVariables writes the flash image of a firmware's variables at path: with Secure Boot on and the keys of a site, or in setup mode
// where keys is empty. The folder keys is one of "sdbox-image keys"; db names the lists that may start: "db", or "db-dev" on a machine
// for development images.
func MakeVariables(path, keys string, db ...string) error {
	factory, err := os.ReadFile(factoryVariables)
	if err != nil {
		return fmt.Errorf("firmware (package ovmf): %w", err)
	}
	var list []Variable
	if keys != "" {
		for _, v := range []struct {
			variable string
			files    []string
		}{{efivar.PK, []string{"PK"}}, {efivar.KEK, []string{"KEK"}}, {efivar.DB, db}} {
			var value []byte
			for _, file := range v.files {
				entries, err := os.ReadFile(filepath.Join(keys, file+".esl"))
				if err != nil {
					return fmt.Errorf("firmware: %w", err)
				}
				value = append(value, entries...)
			}
			list = append(list, Variable{Name: v.variable, Attributes: authenticated, Value: value})
		}
	}
	filled, err := WriteVariables(factory, list...)
	if err != nil {
		return fmt.Errorf("firmware: %w", err)
	}
	return os.WriteFile(path, filled, 0o600)
}
