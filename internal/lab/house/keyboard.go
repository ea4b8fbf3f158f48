// SPDX-License-Identifier: Apache-2.0

package house

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"

	"sdbox/agent/keys"
)

// errUnplugged says that no box has its keyboard connected.
var errUnplugged = errors.New("the box has not connected its keyboard")

// Keyboard is the keyboard and mouse of one box: a socket the box's agent dials and reads Linux input events from, or those of its
// machine.
type Keyboard struct {
	box      *Box // of the image form, or nil
	listener net.Listener
	running  sync.WaitGroup

	mu   sync.Mutex
	conn net.Conn // the agent's, newest wins; guarded by mu
}

// newKeyboard listens on a Unix socket.
func newKeyboard(path string) (*Keyboard, error) {
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("keyboard socket: %w", err)
	}
	k := &Keyboard{listener: l}
	k.running.Go(k.accept)
	return k, nil
}

func (k *Keyboard) accept() {
	for {
		conn, err := k.listener.Accept()
		if err != nil {
			return
		}
		k.mu.Lock()
		if k.conn != nil {
			k.conn.Close()
		}
		k.conn = conn
		k.mu.Unlock()
	}
}

// Send gives the box input events in order, all or none of them at once.
func (k *Keyboard) Send(events ...keys.Raw) error {
	if k.box != nil {
		return k.box.press(events)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.conn == nil {
		return errUnplugged
	}
	buf := make([]byte, 0, len(events)*keys.RawSize)
	for _, e := range events {
		buf = e.Append(buf)
	}
	if err := k.conn.SetWriteDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return fmt.Errorf("keyboard: %w", err)
	}
	if _, err := k.conn.Write(buf); err != nil {
		k.conn.Close()
		k.conn = nil
		return fmt.Errorf("keyboard: %w", err)
	}
	return nil
}

// typesWithin bounds what is typed at once on a machine's keyboard, which takes 60 ms a key.
const typesWithin = 2 * time.Minute

func (b *Box) press(events []keys.Raw) error {
	m := b.on()
	if m == nil {
		return errUnplugged
	}
	ctx, cancel := context.WithTimeout(context.Background(), typesWithin)
	defer cancel()
	return m.Send(ctx, events...)
}

// Close unplugs the keyboard.
func (k *Keyboard) Close() error {
	if k.listener == nil {
		return nil
	}
	err := k.listener.Close()
	k.running.Wait()
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.conn != nil {
		err = errors.Join(err, k.conn.Close())
		k.conn = nil
	}
	return err
}

// Linux key codes of the keys the lab itself presses (linux/input-event-codes.h).
const (
	KeyEscape, KeyEnter     = 1, 28
	KeyLeftCtrl, KeyLeftAlt = 29, 56
	KeyLeftShift, KeySpace  = 42, 57
	KeyUp, KeyDown          = 103, 108
	KeyLeft, KeyRight       = 105, 106
)

// Tap is a key pressed and let go.
func Tap(code uint16) []keys.Raw { return append(keys.Key(code, 1), keys.Key(code, 0)...) }

// Chord holds all keys but the last, taps the last, and lets go in reverse.
func Chord(codes ...uint16) []keys.Raw {
	var out []keys.Raw
	for _, c := range codes {
		out = append(out, keys.Key(c, 1)...)
	}
	for i := len(codes) - 1; i >= 0; i-- {
		out = append(out, keys.Key(codes[i], 0)...)
	}
	return out
}

// Typing is the events that type a text on a keyboard with US legends: printable ASCII and newline; other characters are
// refused.
func Typing(text string) ([]keys.Raw, error) {
	var out []keys.Raw
	for _, r := range text {
		code, shift, ok := keyOf(r)
		switch {
		case !ok:
			return nil, fmt.Errorf("no key for %q", r)
		case shift:
			out = append(out, Chord(KeyLeftShift, code)...)
		default:
			out = append(out, Tap(code)...)
		}
	}
	return out, nil
}

// keyOf finds the key with this legend, US layout, and whether shift is held for it.
func keyOf(r rune) (code uint16, shift, ok bool) {
	rows := []struct {
		plain, shifted string
		first          uint16
	}{
		{"1234567890-=", "!@#$%^&*()_+", 2}, {"qwertyuiop[]", "QWERTYUIOP{}", 16}, {"asdfghjkl;'`", "ASDFGHJKL:\"~", 30},
		{"\\zxcvbnm,./", "|ZXCVBNM<>?", 43}, {" ", " ", KeySpace}, {"\n", "\n", KeyEnter},
	}
	for _, row := range rows {
		if i := strings.IndexRune(row.plain, r); i >= 0 {
			return row.first + uint16(i), false, true
		}
		if i := strings.IndexRune(row.shifted, r); i >= 0 {
			return row.first + uint16(i), true, true
		}
	}
	return 0, false, false
}
