// SPDX-License-Identifier: Apache-2.0

package boot

import (
	"fmt"

	"kernel.org/pub/linux/libs/security/libcap/cap"
)

// bounds are the capabilities PID 1 and whatever it starts may still have once the start is over: to start roles as other users, to
// look after devices, time and network, and to start the machine again. CAP_MAC_ADMIN, which can switch the execution policy off, and
// CAP_SYS_MODULE are not among them.
func bounds() []cap.Value {
	return []cap.Value{
		cap.SETUID, cap.SETGID, cap.SETPCAP, cap.KILL, cap.CHOWN, cap.FOWNER, cap.DAC_OVERRIDE, // roles and device nodes
		cap.NET_ADMIN, cap.NET_RAW, cap.NET_BIND_SERVICE, // the network's role, uevents
		cap.SYS_TIME, cap.SYS_BOOT, cap.SYS_RESOURCE, // clock, restart, who goes first when memory ends
		cap.LINUX_IMMUTABLE, // efivarfs guards variables it does not know by that mark
		cap.SYS_ADMIN,       // the display's master, Secure Boot variables
	}
}

// dropBounds gives up every other capability, of every thread, for good.
func dropBounds() error {
	keep := cap.NewSet()
	for _, f := range []cap.Flag{cap.Permitted, cap.Effective} {
		if err := keep.SetFlag(f, true, bounds()...); err != nil {
			return fmt.Errorf("capabilities: %w", err)
		}
	}
	for v := cap.Value(0); v < cap.MaxBits(); v++ {
		held, err := keep.GetFlag(cap.Permitted, v)
		if err != nil {
			return fmt.Errorf("capabilities: %w", err)
		}
		if held {
			continue
		}
		if err := cap.DropBound(v); err != nil {
			return fmt.Errorf("capability %v: %w", v, err)
		}
	}
	if err := keep.SetProc(); err != nil {
		return fmt.Errorf("capabilities: %w", err)
	}
	return nil
}
