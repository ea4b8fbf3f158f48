// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"time"

	"sdbox/agent/boot"
	"sdbox/agent/kiosk"
	"sdbox/agent/screen"
	"sdbox/firmware/reference"
	"sdbox/firmware/release"
	"sdbox/internal/refusal"
	"sdbox/internal/tpm"
)

// box is the agent of a machine that is a box and nothing else. PID 1 started it; it ends with PID 1's word, or ctx.
func box(ctx context.Context, config string, o output) error {
	if err := boot.Confine(boot.RoleAgent); err != nil {
		return err
	}
	client, first, err := boot.Inherit()
	if err != nil {
		return err
	}
	display, err := openDisplay(first)
	if err != nil {
		return err
	}
	c, err := readConfig(config)
	if err != nil {
		return errors.Join(err, display.Close())
	}
	root, err := readRoot(c.Root)
	if err != nil {
		return errors.Join(err, display.Close())
	}
	chip, err := tpm.Open(c.Hardware.TPM)
	if err != nil {
		return errors.Join(err, c.sayNoChip(ctx, o, err, display, client), display.Close())
	}
	defer chip.Close()
	return c.live(ctx, o, parts{root: root, tpm: chip, screen: display, boot: client, kept: first.Start.Kept, releases: releaseKeys()})
}

// releaseKeys returns whose releases this box takes. Without good keys it takes none, which PID 1 says in its log.
func releaseKeys() *reference.Trust {
	text, err := os.ReadFile(boot.ReleaseKeys)
	if err != nil {
		return nil
	}
	trust, err := release.ParseKeys(text)
	if err != nil {
		return nil
	}
	return trust
}

// openDisplay takes the display that PID 1 opened. Without one the box lives on before a picture that nobody sees: PID 1 starts the
// agent anew when a display appears.
func openDisplay(first boot.Event) (screen.Screen, error) {
	if first.Start.Screen == nil || len(first.Files) != 1 {
		return screen.NewMemory(1024, 768)
	}
	return screen.Shared(first.Files[0], *first.Start.Screen)
}

// chipAgain is how long the screen says that there is no TPM before it is looked for again.
const chipAgain = 30 * time.Second

// sayNoChip shows why this machine can be no box, until it is time to look again.
func (c *config) sayNoChip(ctx context.Context, o output, why error, s screen.Screen, client *boot.Client) error {
	r := refusal.New(refusal.NoChip)
	slog.New(slog.NewJSONHandler(o.log, nil)).Error("no TPM", "room", "agent", "code", r.Error(), "err", why)
	k, err := kiosk.New()
	if err != nil {
		return err
	}
	around := kiosk.Around{Language: refusal.Lang(c.Language), Support: c.Support}
	if err := s.Flush(k.Draw(s.Image(), kiosk.Message{Refusal: r}, around)...); err != nil {
		return err
	}
	again, beat := time.NewTimer(chipAgain), time.NewTicker(time.Second)
	defer again.Stop()
	defer beat.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-again.C:
			return nil
		case <-beat.C:
			if err := client.Beat(); err != nil {
				return err
			}
		}
	}
}
