// SPDX-License-Identifier: Apache-2.0

package card

// LimitsOf judges what can be sent from the card's answer to reset, the protocol in use, and the longest command the reader
// says it carries (0 if it does not say). Extended length needs the card's word and no objection from the reader; Select's
// Card falls back to short commands should the card refuse the length after all.
func LimitsOf(atr []byte, t0 bool, readerMax int) Limits {
	if t0 {
		return Limits{T0: true}
	}
	a, err := ParseATR(atr)
	return Limits{Extended: err == nil && a.ExtendedLength() && (readerMax == 0 || readerMax > 256+9)}
}
