// SPDX-License-Identifier: Apache-2.0

package boot

import (
	"fmt"
	"os"
	"path/filepath"
)

// Where the kernel's Integrity Policy Enforcement is, and the name that the policy of an image gives itself.
const (
	ipeFolder = "/sys/kernel/security/ipe"
	ipeName   = "box"
)

// activateIPE hands the kernel a signed policy and switches it on: from here on nothing is executed, and no module loaded, that did
// not come with the boot. The kernel checks the signature against the keys of Secure Boot.
func activateIPE(folder string, signed []byte) error {
	if err := os.WriteFile(filepath.Join(folder, "new_policy"), signed, 0); err != nil {
		return fmt.Errorf("execution policy: %w", err)
	}
	if err := os.WriteFile(filepath.Join(folder, "policies", ipeName, "active"), []byte("1"), 0); err != nil {
		return fmt.Errorf("execution policy: switch on: %w", err)
	}
	return nil
}
