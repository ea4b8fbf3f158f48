// SPDX-License-Identifier: Apache-2.0

package release

const againName = "SdboxAgain-5d0bc0de-5d0a-4d0b-8e1f-0a5f0b1d2c3e"

// Again is called in a start in which the firmware first tried another program: what it measured of that try is in register 4, and in no
// reference. It says whether one more start will do: when that program was the idle slot's, armed and refused, which the firmware does
// not try again. It says so once for each try, whatever the firmware does.
func (s *Slots) Again() (bool, error) {
	t, err := s.trial()
	if err != nil || t.tries == 0 {
		return false, err
	}
	running, err := s.running()
	if err != nil || running == t.slot {
		return false, err
	}
	mark := string(t.bytes())
	if old, err := s.get(againName, len(mark)+1); err != nil || string(old) == mark {
		return false, err
	}
	return true, s.set(againName, []byte(mark))
}
