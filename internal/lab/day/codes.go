// SPDX-License-Identifier: Apache-2.0

package day

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"image"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"sdbox/gateway/console"
	"sdbox/internal/refusal"
)

// codeArea is where the box's own screens write a code: at the right edge of a sheet, a strip or a row.
func codeArea() image.Rectangle { return image.Rect(1080, 140, 1600, 960) }

// readCode reads a code with its suffix from a part of a box's screen and returns it. It waits until the code is there, and looks at
// several sizes, as a person does who is asked to look again, until what it reads stands in the box's log.
func (p *player) readCode(ctx context.Context, box int, code refusal.Code, where image.Rectangle) (string, error) {
	e := p.eyes[box]
	var read []string
	err := e.watcher.Now(ctx)
	for err == nil {
		for _, times := range []int{2, 3, 1} {
			for _, mode := range []string{"11", "6"} { // words anywhere; one block
				text, err := recogniseAs(ctx, part(e.watcher.Image, where, times), mode)
				if err != nil {
					return "", err
				}
				found := codesIn(text, code)
				if at, err := p.logged(box, found); err != nil || at >= 0 {
					return found[max(at, 0)], err
				}
				read = append(read, found...)
			}
		}
		err = e.watcher.Next(ctx)
	}
	return "", fmt.Errorf("read code %s on the screen of %s: %w; it says %q, which is not in the box's log", code, e.box.Serial, err, read)
}

// logged is which of these codes stands in a box's log, or -1.
func (p *player) logged(box int, codes []string) (int, error) {
	if len(codes) == 0 {
		return -1, nil
	}
	log, err := os.ReadFile(filepath.Join(p.site.House.Logs(), p.site.Boxes[box].Serial+".agent.log"))
	return slices.IndexFunc(codes, func(c string) bool { return strings.Contains(string(log), c) }), err
}

// codesIn finds what may be a code with its suffix in a text. Suffixes hold one of each pair of characters that look alike.
func codesIn(text string, code refusal.Code) []string {
	alike := strings.NewReplacer("0", "[0OQD]", "1", "[1IL|]", "2", "[2Z]", "3", "3", "5", "[5S]", "8", "[8B]", "G", "[G6C]", "B", "[B8]", "S", "[S5$]", "C", "[CG(]", "U", "[UV]")
	pattern := regexp.MustCompile(`(?:^|[^0-9A-Z])` + alike.Replace(string(code)) + ` ?[-–—_~] ?([0-9A-Z$]{3})(?:[^0-9A-Z]|$)`)
	suffix := strings.NewReplacer("Z", "2", "G", "6", "B", "8", "O", "D", "0", "D", "Q", "D", "A", "4", "U", "V", "E", "F")
	var found []string
	for _, m := range pattern.FindAllStringSubmatch(strings.ToUpper(text), -1) {
		found = append(found, string(code)+"-"+suffix.Replace(m[1]))
	}
	return found
}

// known waits until sdboxctl why finds a code that was read on a screen: some the box can only tell later.
func (p *player) known(ctx context.Context, code string) error {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		out, err := p.site.Ctl(ctx, "why", code)
		if err == nil {
			var list []console.Why
			if err := json.Unmarshal(out, &list); err != nil {
				return err
			}
			if len(list) == 0 || list[0].Code != code || list[0].Means == "" || list[0].Fix == "" {
				return fmt.Errorf("why %s: %s", code, out)
			}
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return errors.Join(err, ctx.Err())
		}
	}
}

// refuses waits until a box's screen says all these words beside a code; the code must be in the box's log, and known to the centre.
func (p *player) refuses(ctx context.Context, box int, code refusal.Code, words ...string) error {
	_, text, err := p.eyes[box].readUntil(ctx, nil, func(text string) bool { return holds(text, words) })
	if err != nil {
		return fmt.Errorf("read %q on the screen of %s: %w; it says %q", words, p.site.Boxes[box].Serial, err, strings.Join(strings.Fields(text), " "))
	}
	found := codesIn(text, code)
	at, err := p.logged(box, found)
	switch {
	case err != nil:
		return err
	case at >= 0:
		return p.known(ctx, found[at])
	}
	read, err := p.readCode(ctx, box, code, codeArea())
	if err != nil {
		return err
	}
	return p.known(ctx, read)
}
