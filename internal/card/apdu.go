// SPDX-License-Identifier: Apache-2.0

package card

import "fmt"

// Instruction bytes (SP 800-73-5 Part 2, 3; ISO/IEC 7816-4, 11).
const (
	insVerify       = 0x20
	insGenerate     = 0x47
	insAuthenticate = 0x87
	insSelect       = 0xA4
	insGetResponse  = 0xC0
	insGetData      = 0xCB
	insPutData      = 0xDB
)

// maxAnswer bounds what a card may make the box hold for one command. The largest object of a PIV card is a face image of
// 12,710 bytes (SP 800-73-5 Part 1, Table 3), which the box never reads.
const maxAnswer = 16 << 10

// maxParts bounds the GET RESPONSE commands that follow one command: maxAnswer in the smallest useful parts.
const maxParts = 128

// command is one command before it is cut to what the transport carries.
type command struct {
	ins, p1, p2 byte
	data        []byte
	answers     bool // response data is expected
	long        bool // the response may pass 256 bytes: extended length saves commands
}

// exchange sends a command and returns the response data of a successful one; any other status is an error.
func (c *Card) exchange(cmd command) ([]byte, error) {
	last, err := c.sendParts(cmd)
	if err != nil {
		return nil, err
	}
	response, sw, err := c.transmit(last)
	if err != nil {
		return nil, err
	}
	if sw>>8 == 0x6C && cmd.answers && len(cmd.data) <= 255 && !c.limits.T0 {
		// Wrong Le: the card names the right one (ISO/IEC 7816-4, 5.6). At T=0 the same happens to GET RESPONSE only.
		if response, sw, err = c.transmit(withLe(cmd, byte(sw))); err != nil {
			return nil, err
		}
	}
	if sw == 0x6700 && c.limits.Extended {
		// Neither ATR nor reader can be trusted about extended length: the card's own "wrong length" is the truth.
		c.limits.Extended = false
		return c.exchange(cmd)
	}
	data := response
	for part := 0; sw>>8 == 0x61; part++ {
		if part == maxParts || len(data) > maxAnswer {
			clear(data)
			return nil, fmt.Errorf("answer of more than %d bytes: %w", maxAnswer, ErrBadCard)
		}
		if response, sw, err = c.more(byte(sw)); err != nil {
			return nil, err
		}
		data = append(data, response...)
	}
	if len(data) > maxAnswer {
		return nil, fmt.Errorf("answer of %d bytes: %w", len(data), ErrBadCard)
	}
	return data, statusError(sw)
}

// sendParts sends all but the last part of a command too long for one short APDU (command chaining, ISO/IEC 7816-4, 5.3.3)
// and returns the last part, ready to transmit.
func (c *Card) sendParts(cmd command) ([]byte, error) {
	if c.limits.Extended && (cmd.long || len(cmd.data) > 255) {
		return extended(cmd), nil
	}
	for len(cmd.data) > 255 {
		part := append([]byte{0x10, cmd.ins, cmd.p1, cmd.p2, 255}, cmd.data[:255]...)
		_, sw, err := c.transmit(part)
		clear(part)
		if err != nil {
			return nil, err
		}
		if err := statusError(sw); err != nil {
			return nil, err
		}
		cmd.data = cmd.data[255:]
	}
	if c.limits.T0 {
		return short(cmd, len(cmd.data) == 0), nil
	}
	return short(cmd, cmd.answers), nil
}

// more fetches the next part of an answer, asking once more when the card corrects the length.
func (c *Card) more(n byte) ([]byte, uint16, error) {
	data, sw, err := c.transmit([]byte{0, insGetResponse, 0, 0, n})
	if err == nil && sw>>8 == 0x6C {
		data, sw, err = c.transmit([]byte{0, insGetResponse, 0, 0, byte(sw)})
	}
	if err == nil && sw>>8 == 0x61 && len(data) == 0 {
		return nil, 0, fmt.Errorf("promises more and sends nothing: %w", ErrBadCard)
	}
	return data, sw, err
}

// transmit sends one APDU, wipes it, and cuts the status off the response.
func (c *Card) transmit(apdu []byte) ([]byte, uint16, error) {
	response, err := c.t.Transmit(apdu)
	clear(apdu) // it may hold minutiae or a PIN
	if err != nil {
		return nil, 0, err
	}
	if len(response) < 2 {
		return nil, 0, fmt.Errorf("response of %d bytes: %w", len(response), ErrBadCard)
	}
	n := len(response) - 2
	return response[:n:n], uint16(response[n])<<8 | uint16(response[n+1]), nil
}

// short builds a short APDU; le adds Le = 00, that is up to 256 bytes.
func short(cmd command, le bool) []byte {
	apdu := make([]byte, 0, 6+len(cmd.data))
	apdu = append(apdu, 0, cmd.ins, cmd.p1, cmd.p2)
	if len(cmd.data) > 0 {
		apdu = append(apdu, byte(len(cmd.data)))
		apdu = append(apdu, cmd.data...)
	}
	if le {
		apdu = append(apdu, 0)
	}
	return apdu
}

// withLe builds a short APDU with the given Le.
func withLe(cmd command, le byte) []byte { return append(short(cmd, false), le) }

// extended builds an extended APDU; an answer may be up to 65,536 bytes.
func extended(cmd command) []byte {
	apdu := make([]byte, 0, 9+len(cmd.data))
	apdu = append(apdu, 0, cmd.ins, cmd.p1, cmd.p2, 0)
	if len(cmd.data) > 0 {
		apdu = append(apdu, byte(len(cmd.data)>>8), byte(len(cmd.data)))
		apdu = append(apdu, cmd.data...)
	}
	if cmd.answers {
		apdu = append(apdu, 0, 0)
	}
	return apdu
}

// statusError turns a status word into the error a caller branches on (SP 800-73-5 Part 2, Table 2).
func statusError(sw uint16) error {
	switch {
	case sw == 0x9000:
		return nil
	case sw&0xFFF0 == 0x63C0:
		return &PINError{Left: int(sw & 0x0F)}
	case sw == 0x6982:
		return ErrNotVerified
	case sw == 0x6983:
		return ErrBlocked
	case sw == 0x6A82:
		return ErrNoObject
	default:
		return &StatusError{SW: sw}
	}
}
