// SPDX-License-Identifier: Apache-2.0

// Package refusal holds every reason a person may read on an SD-Box: a closed list of codes, each with its light, its
// words in French and English, and the person's next step.
package refusal

import "crypto/rand"

// Lang is a language a screen can speak.
type Lang string

// The languages of the screens.
const (
	French  Lang = "fr"
	English Lang = "en"
)

// Code is a refusal code: a letter for what it is about (A ready, B box, C card, G gateway, K what is plugged in, N network, P project,
// S session, U bubble) and two digits.
type Code string

// Refusal is one refusal as it happened: the same code and suffix stand on the screen, in the log and at the support desk.
type Refusal struct {
	Code   Code              `cbor:"1,keyasint"`
	Suffix string            `cbor:"2,keyasint,omitempty"` // 3 characters, made by whoever refuses
	Params map[string]string `cbor:"3,keyasint,omitempty"` // names, dates and counts the words take
}

// suffixLetters leaves out what is misread, by eye or over a telephone, 0 O Q 1 I L S 5, one of each pair that looks alike, Z for 2,
// G for 6 and B for 8, and vowels that make words.
const suffixLetters = "2346789CDFHJKMNPRTVWXY"

// New makes a refusal with a fresh suffix. The pairs are parameter name, value.
func New(code Code, pairs ...string) Refusal {
	var raw [3]byte
	rand.Read(raw[:])
	for i, b := range raw {
		raw[i] = suffixLetters[int(b)%len(suffixLetters)]
	}
	r := Refusal{Code: code, Suffix: string(raw[:])}
	for i := 0; i+1 < len(pairs); i += 2 {
		if r.Params == nil {
			r.Params = map[string]string{}
		}
		r.Params[pairs[i]] = pairs[i+1]
	}
	return r
}

// Error returns code and suffix, for example "C05-7K2".
func (r Refusal) Error() string {
	if r.Suffix == "" {
		return string(r.Code)
	}
	return string(r.Code) + "-" + r.Suffix
}
