// SPDX-License-Identifier: Apache-2.0

package boot

import (
	"slices"
	"time"
)

// rule is what PID 1 does when a role ends that it did not end itself.
type rule struct {
	role   Role
	cover  bool          // the safe screen is drawn first
	wait   time.Duration // before it is started again
	most   int           // this many ends ...
	within time.Duration // ... in this time start the machine again
}

// rules is the whole of it, one row for each role. A machine that starts again too often falls back to its other release, if the one
// that runs has not been found good yet.
func rules() map[Role]rule {
	return map[Role]rule{
		RoleAgent:   {RoleAgent, true, 0, 5, time.Minute},
		RoleCard:    {RoleCard, false, 100 * time.Millisecond, 8, time.Minute},
		RoleNetwork: {RoleNetwork, false, time.Second, 20, time.Minute},
	}
}

// Times of PID 1's loop (implementation).
const (
	lookEvery  = time.Second      // the watchdog is fed, the agent's beat looked at
	agentQuiet = 20 * time.Second // an agent that does not beat for so long is ended
	agentStart = 60 * time.Second // the same before its first beat: a slow machine
)

// record is what PID 1 remembers of one role's ends.
type record struct{ ends []time.Time }

// ended writes an end down and says what follows: the role again after a wait, or the machine. An end that PID 1 asked for does not
// count.
func (r *record) ended(row rule, now time.Time, asked bool) (again time.Duration, reboot bool) {
	r.ends = slices.DeleteFunc(r.ends, func(t time.Time) bool { return now.Sub(t) >= row.within })
	if asked {
		return 0, false
	}
	r.ends = append(r.ends, now)
	return row.wait, len(r.ends) >= row.most
}
