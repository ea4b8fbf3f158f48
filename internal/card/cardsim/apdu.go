// SPDX-License-Identifier: Apache-2.0

package cardsim

import "errors"

// command is one command APDU taken apart (ISO/IEC 7816-4, 5.1).
type command struct {
	cla, ins, p1, p2 byte
	data             []byte
	expects          int // Ne: response bytes the reader takes; 0 without Le
}

var errLength = errors.New("command APDU of a wrong length")

// parseCommand reads the seven forms of a command APDU: case 1, and cases 2 to 4 short and extended (ISO/IEC 7816-3, 12.1).
func parseCommand(b []byte) (command, error) {
	if len(b) < 4 {
		return command{}, errLength
	}
	c := command{cla: b[0], ins: b[1], p1: b[2], p2: b[3]}
	b = b[4:]
	if len(b) == 0 { // case 1
		return c, nil
	}
	if b[0] == 0 && len(b) > 1 {
		return parseExtended(c, b[1:])
	}
	if len(b) == 1 { // case 2
		c.expects = shortLe(b[0])
		return c, nil
	}
	n := int(b[0])
	switch b = b[1:]; len(b) {
	case n: // case 3
	case n + 1: // case 4
		c.expects = shortLe(b[n])
	default:
		return command{}, errLength
	}
	c.data = b[:n]
	return c, nil
}

func parseExtended(c command, b []byte) (command, error) {
	if len(b) < 2 {
		return command{}, errLength
	}
	n := int(b[0])<<8 | int(b[1])
	if b = b[2:]; len(b) == 0 { // case 2
		c.expects = extendedLe(n)
		return c, nil
	}
	switch {
	case n == 0:
		return command{}, errLength
	case len(b) == n: // case 3
	case len(b) == n+2: // case 4
		c.expects = extendedLe(int(b[n])<<8 | int(b[n+1]))
	default:
		return command{}, errLength
	}
	c.data = b[:n]
	return c, nil
}

func shortLe(le byte) int {
	if le == 0 {
		return 256
	}
	return int(le)
}

func extendedLe(le int) int {
	if le == 0 {
		return 65536
	}
	return le
}
