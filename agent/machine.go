// SPDX-License-Identifier: Apache-2.0

package agent

import "sdbox/agent/boot"

// onMachine takes what PID 1 says of the machine.
func (a *Agent) onMachine(e boot.Event) error {
	switch {
	case e.Network != nil:
		a.log.Info("network", "state", string(e.Network.State), "address", e.Network.Address)
	}
	return nil
}
