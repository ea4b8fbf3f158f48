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
	chip, err := c.awaitChip(ctx, o, display, client)
	if err != nil {
		return errors.Join(err, display.Close())
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

// chipAgain is how often a TPM is looked for that is not there or does not answer.
const chipAgain = 5 * time.Second

// awaitChip opens the TPM. As long as there is none the screen says so: by one code, which somebody may read out over the telephone.
func (c *config) awaitChip(ctx context.Context, o output, s screen.Screen, client *boot.Client) (*tpm.TPM, error) {
	chip, err := tpm.Open(c.Hardware.TPM)
	if err == nil {
		return chip, nil
	}
	r := refusal.New(refusal.NoChip)
	slog.New(slog.NewJSONHandler(o.log, nil)).Error("no TPM", "room", "agent", "code", r.Error(), "err", err)
	k, err := kiosk.New()
	if err != nil {
		return nil, err
	}
	around := kiosk.Around{Language: refusal.Lang(c.Language), Support: c.Support}
	if err := s.Flush(k.Draw(s.Image(), kiosk.Message{Refusal: r}, around)...); err != nil {
		return nil, err
	}
	again := time.NewTicker(chipAgain)
	defer again.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-again.C:
		}
		if chip, err = tpm.Open(c.Hardware.TPM); err == nil {
			return chip, nil
		}
		if err := client.Beat(); err != nil {
			return nil, err
		}
	}
}
