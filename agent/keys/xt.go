// SPDX-License-Identifier: Apache-2.0

package keys

// Linux key codes that mean something to the box itself (linux/input-event-codes.h).
const (
	codeEscape, code1, code0, codeEnter              = 1, 2, 11, 28
	codeLeftCtrl, codeLeftAlt                        = 29, 56
	codeRightCtrl, codeRightAlt                      = 97, 100
	codeUp, codeDown, codeLeft, codeRight            = 103, 108, 105, 106
	codeKeypadEnter, codeMenu, codeSuperL, codeSuper = 96, 127, 125, 126
	codeF2, codeDelete, codeKeypadPoint              = 60, 111, 83
	codeLeftShift, codeRightShift                    = 42, 54
)

// maxSameXT is the last key code that is its own XT scancode.
const maxSameXT = 88

// XT returns the XT scancode of a Linux key code, set 1, as the QEMU extended key event of RFB carries it: a scancode
// that the keyboard prefixes with E0 has bit 7 set instead. ok is false for keys that have none: those are not sent.
func XT(code uint16) (scancode uint32, ok bool) {
	if code >= 1 && code <= maxSameXT {
		return uint32(code), true
	}
	switch code {
	case codeKeypadEnter:
		return 0x9c, true
	case codeRightCtrl:
		return 0x9d, true
	case 98: // keypad slash
		return 0xb5, true
	case 99: // print screen
		return 0x54, true
	case codeRightAlt:
		return 0xb8, true
	case 102: // home
		return 0xc7, true
	case codeUp:
		return 0xc8, true
	case 104: // page up
		return 0xc9, true
	case codeLeft:
		return 0xcb, true
	case codeRight:
		return 0xcd, true
	case 107: // end
		return 0xcf, true
	case codeDown:
		return 0xd0, true
	case 109: // page down
		return 0xd1, true
	case 110: // insert
		return 0xd2, true
	case 111: // delete
		return 0xd3, true
	case 119: // pause
		return 0xc6, true
	case codeSuperL:
		return 0xdb, true
	case codeSuper:
		return 0xdc, true
	case codeMenu:
		return 0xdd, true
	}
	return 0, false
}
