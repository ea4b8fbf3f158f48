// SPDX-License-Identifier: Apache-2.0

package house

import "context"

// ReturnGateway starts the gateway's program again after it was killed, and waits until it answers.
func (s *Site) ReturnGateway(ctx context.Context) error {
	var err error
	if s.GatewayProgram, err = s.Gateway.Start("gateway", searchPath(), binDir+"/sdbox-gateway", "run", "--config", insideDir+"/gateway.toml"); err != nil {
		return err
	}
	return s.Gateway.await(ctx, s.GatewayProgram, ConsoleAddress)
}

// Return starts the bubble's program again after it was killed, and waits until it answers.
func (b *Bubble) Return(ctx context.Context) error {
	if b.Place == nil {
		return errNoMachine
	}
	var err error
	if b.Program, err = b.Place.Start("bubble", searchPath(), binDir+"/sdbox-bubble", "run", "--config", insideDir+"/bubble.toml"); err != nil {
		return err
	}
	return b.Place.await(ctx, b.Program, b.machine())
}

// KillDesktop ends the X server of a person's desktop in the bubble as the kernel does when memory runs out.
func (b *Bubble) KillDesktop(ctx context.Context, p *Person) error {
	if b.Place == nil {
		return errNoMachine
	}
	_, err := b.Place.Run(ctx, p.account(), searchPath(), "/usr/bin/pkill", "-KILL", "-x", "-u", p.Account, "Xvnc|Xtigervnc")
	return err
}
