// SPDX-License-Identifier: Apache-2.0

package boot

import "golang.org/x/sys/unix"

// Users of the image: /etc/passwd names them.
const (
	UserAgent = 901 // what a person sees and touches
	UserCard  = 902 // pcscd
	UserNet   = 903 // addresses and routes
)

// Role is one of the processes of a running box beside PID 1.
type Role string

// The roles, as they are named on the hidden command lines and in the log.
const (
	RoleAgent   Role = "agent"
	RoleCard    Role = "card"
	RoleNetwork Role = "network"
)

// roleSpec is how a role is started.
type roleSpec struct {
	role Role
	args []string // of this very program, which confines itself and then becomes the role
	user int
	caps []uintptr // kept over the change of user
	oom  int       // oom_score_adj: who goes first when memory ends
}

const self = "/proc/self/exe"

func roleSpecs() map[Role]roleSpec {
	return map[Role]roleSpec{
		RoleAgent:   {RoleAgent, []string{string(RoleAgent)}, UserAgent, nil, 900},
		RoleCard:    {RoleCard, []string{string(RoleCard)}, UserCard, nil, 300},
		RoleNetwork: {RoleNetwork, []string{string(RoleNetwork)}, UserNet, []uintptr{unix.CAP_NET_ADMIN, unix.CAP_NET_RAW, unix.CAP_NET_BIND_SERVICE}, 500},
	}
}
