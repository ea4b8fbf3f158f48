// SPDX-License-Identifier: Apache-2.0

package vm

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"time"

	"sdbox/agent/keys"
	"sdbox/internal/finger"
)

// How fast the machine's keyboard is typed on: as a quick typist holds keys and goes from one to the next. QEMU's keyboard remembers 16
// events; those of a guest that stands still for longer than it takes to type them are lost.
const keyPace = 30 * time.Millisecond

// fingerComes is how long after being asked a person has a finger on the sensor. What is there before the guest listens, it drops.
const fingerComes = 500 * time.Millisecond

// takesFinger is how long a guest may take to read an impression before it is placed once more.
const takesFinger = 20 * time.Second

// Event types and codes of linux/input-event-codes.h.
const (
	evSyn, evKey, evRel, evAbs   = 0, 1, 2, 3
	absX, relWheel, firstButton  = 0, 8, 0x100
	btnLeft, btnRight, btnMiddle = 0x110, 0x111, 0x112
)

// inputEvent is QEMU's InputEvent (qemu-qmp-ref(7), input-send-event).
type inputEvent struct {
	Type string         `json:"type"`
	Data map[string]any `json:"data"`
}

// Send has the machine's keyboard and mouse make these events, in order, at the pace of a person. It returns when all are made, which
// for keys takes time.
func (v *VM) Send(ctx context.Context, events ...keys.Raw) error {
	v.typing.Lock()
	defer v.typing.Unlock()
	var report []inputEvent
	paced := false
	for _, e := range events {
		if e.Type != evSyn {
			made, err := translate(e)
			if err != nil {
				return err
			}
			report = append(report, made...)
			paced = paced || e.Type == evKey
			continue
		}
		if len(report) > 0 {
			if err := v.Command(ctx, "input-send-event", map[string]any{"events": report}, nil); err != nil {
				return err
			}
		}
		if paced {
			if err := pause(ctx, keyPace); err != nil {
				return err
			}
		}
		report, paced = nil, false
	}
	return nil
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// translate gives an event the words of QEMU. A key that the keyboard does not have is an error; a repeat is the guest's own affair.
func translate(e keys.Raw) ([]inputEvent, error) {
	switch {
	case e.Type == evKey && e.Code < firstButton:
		scancode, ok := keys.XT(e.Code)
		if !ok {
			return nil, fmt.Errorf("key %d: the keyboard has no such key", e.Code)
		}
		if e.Value == 2 {
			return nil, nil
		}
		return []inputEvent{{"key", map[string]any{"down": e.Value == 1, "key": map[string]any{"type": "number", "data": scancode}}}}, nil
	case e.Type == evKey:
		name, ok := map[uint16]string{btnLeft: "left", btnRight: "right", btnMiddle: "middle"}[e.Code]
		if !ok {
			return nil, fmt.Errorf("button %d: the mouse has no such button", e.Code)
		}
		return []inputEvent{{"btn", map[string]any{"down": e.Value == 1, "button": name}}}, nil
	case e.Type == evAbs:
		axis := "y"
		if e.Code == absX {
			axis = "x"
		}
		return []inputEvent{{"abs", map[string]any{"axis": axis, "value": e.Value}}}, nil
	case e.Type == evRel && e.Code == relWheel:
		return wheel(e.Value), nil
	}
	return nil, fmt.Errorf("input event of type %d, code %d: the machine has no such device", e.Type, e.Code)
}

func wheel(steps int32) (made []inputEvent) {
	name := "wheel-up"
	if steps < 0 {
		name, steps = "wheel-down", -steps
	}
	for range min(steps, 20) {
		for _, down := range []bool{true, false} {
			made = append(made, inputEvent{"btn", map[string]any{"down": down, "button": name}})
		}
	}
	return made
}

// Touch places a finger on the sensor behind the port FingerPort, once the guest asks for one. When it returns the guest has taken the
// impression; placed is when it was handed over, which the guest may have answered meanwhile.
func (v *VM) Touch(ctx context.Context, impression finger.Template) (placed time.Time, err error) {
	var frame bytes.Buffer
	if err := finger.WriteFrame(&frame, impression); err != nil {
		return time.Time{}, err
	}
	v.touching.Lock()
	defer v.touching.Unlock()
	next := 0
	for {
		// The port is open as long as the guest waits for a finger.
		after, err := v.asksFinger(ctx, next)
		if err != nil {
			return time.Time{}, fmt.Errorf("place finger: the machine does not ask for one: %w", err)
		}
		if err := pause(ctx, fingerComes); err != nil {
			return time.Time{}, fmt.Errorf("place finger: %w", err)
		}
		placed = time.Now()
		if _, err := v.fingerPort.Write(frame.Bytes()); err != nil {
			return time.Time{}, fmt.Errorf("place finger: %w", err)
		}
		taking, cancel := context.WithTimeout(ctx, takesFinger)
		_, _, err = v.Told.Await(taking, after, func(line string) bool { return aboutFinger(line) && !portOpen(line) })
		cancel()
		if err == nil || ctx.Err() != nil {
			return placed, err
		}
		next = after - 1
	}
}

// asksFinger waits until the port of the finger is open, and returns the number of the line after the one that said so. What counts is
// the last that was said of it.
func (v *VM) asksFinger(ctx context.Context, from int) (next int, err error) {
	open := false
	for {
		line, after, err := v.Told.Await(done(), from, aboutFinger)
		switch {
		case err == nil:
			from, open = after, portOpen(line)
		case open:
			return from, nil
		default:
			if _, _, err := v.Told.Await(ctx, from, aboutFinger); err != nil {
				return 0, err
			}
		}
	}
}

// done is a context that has ended: Await with it takes what is there and waits for nothing.
func done() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}

type portChange struct {
	Event string `json:"event"`
	Data  struct {
		ID   string `json:"id"`
		Open bool   `json:"open"`
	} `json:"data"`
}

func aboutFinger(line string) bool {
	var c portChange
	return json.Unmarshal([]byte(line), &c) == nil && c.Event == "VSERPORT_CHANGE" && c.Data.ID == "finger"
}

func portOpen(line string) bool {
	var c portChange
	return json.Unmarshal([]byte(line), &c) == nil && c.Data.Open
}
