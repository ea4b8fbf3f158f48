// SPDX-License-Identifier: Apache-2.0

package vm

import (
	"context"
	"fmt"

	"sdbox/agent/keys"
)

// inputEvent is QEMU's InputEvent (qemu-qmp-ref(7), input-send-event).
type inputEvent struct {
	Type string         `json:"type"`
	Data map[string]any `json:"data"`
}

// Key presses a key of the machine's keyboard or lets it go: a Linux key code (linux/input-event-codes.h).
func (v *VM) Key(ctx context.Context, code uint16, down bool) error {
	scancode, ok := keys.XT(code)
	if !ok {
		return fmt.Errorf("key %d: the keyboard has no such key", code)
	}
	return v.input(ctx, inputEvent{"key", map[string]any{"down": down, "key": map[string]any{"type": "number", "data": scancode}}})
}

// Press presses a key and lets it go.
func (v *VM) Press(ctx context.Context, code uint16) error {
	if err := v.Key(ctx, code, true); err != nil {
		return err
	}
	return v.Key(ctx, code, false)
}

func (v *VM) input(ctx context.Context, events ...inputEvent) error {
	return v.Command(ctx, "input-send-event", map[string]any{"events": events}, nil)
}
