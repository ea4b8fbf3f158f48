// SPDX-License-Identifier: Apache-2.0

package reference

import (
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"sdbox/firmware/eventlog"
)

// Event is a measurement that a register judged by events must have.
type Event struct {
	Type   eventlog.Type
	Digest [32]byte
}

// ByEvents returns the registers that may be judged by events. What the others hold is known before a machine boots.
func ByEvents() []uint8 { return []uint8{0, 1, 2, 3, 5, 6} }

// FromLog takes what an intact machine measured into a register as what its like must measure, without what may vary: its boot entries,
// and where the partitions of its disk lie.
func FromLog(register uint8, log *eventlog.Log) PCR {
	p := PCR{Index: register}
	for _, e := range log.Of(register) {
		if !e.MayVary() {
			p.Events = append(p.Events, Event{Type: e.Type, Digest: e.Digest})
		}
	}
	return p
}

// text is the register's lines in a note.
func (p PCR) text() string {
	if len(p.Events) == 0 {
		return p.String() + "\n"
	}
	var b strings.Builder
	for _, e := range p.Events {
		fmt.Fprintf(&b, "%s\n", EventLine(p.Index, e))
	}
	return b.String()
}

// EventLine is the line of one event in a note.
func EventLine(register uint8, e Event) string {
	return fmt.Sprintf("event %d 0x%08x %x", register, uint32(e.Type), e.Digest)
}

// add reads one more line: a register's value, or the next event of a register. Registers come in rising order, each in one way.
func (v *Values) add(line string) error {
	n := len(v.PCRs)
	if !strings.HasPrefix(line, "event ") {
		p, err := ParsePCR(line)
		if err != nil {
			return err
		}
		if n > 0 && v.PCRs[n-1].Index >= p.Index {
			return fmt.Errorf("register %d is not in rising order", p.Index)
		}
		v.PCRs = append(v.PCRs, p)
		return nil
	}
	register, e, err := ParseEvent(line)
	switch {
	case err != nil:
		return err
	case n == 0 || v.PCRs[n-1].Index < register:
		v.PCRs = append(v.PCRs, PCR{Index: register, Events: []Event{e}})
	case v.PCRs[n-1].Index == register && len(v.PCRs[n-1].Events) > 0:
		v.PCRs[n-1].Events = append(v.PCRs[n-1].Events, e)
	default:
		return fmt.Errorf("register %d is not in rising order, or comes with a value too", register)
	}
	return nil
}

// ParseEvent reads the line of an event, as EventLine writes it.
func ParseEvent(line string) (register uint8, e Event, err error) {
	fields := strings.Split(line, " ")
	if len(fields) != 4 || fields[0] != "event" {
		return 0, e, fmt.Errorf("line %.40q: want event, register, type, digest", line)
	}
	index, err1 := strconv.ParseUint(fields[1], 10, 8)
	kind, err2 := strconv.ParseUint(fields[2], 0, 32)
	digest, err3 := hex.DecodeString(fields[3])
	if err1 != nil || err2 != nil || err3 != nil || len(digest) != 32 || !slices.Contains(ByEvents(), uint8(index)) {
		return 0, e, fmt.Errorf("line %.40q: want a register of 0 to 3, 5, 6, a type such as 0x00000004, and 64 hexadecimal digits", line)
	}
	register, e = uint8(index), Event{Type: eventlog.Type(kind), Digest: [32]byte(digest)}
	if EventLine(register, e) != line {
		return 0, e, fmt.Errorf("line %.40q: written in another way than %q", line, EventLine(register, e))
	}
	return register, e, nil
}

// Difference is one register that holds something else than the reference says.
type Difference struct {
	Index     uint8
	Want, Got [32]byte
	Event     string // of a register judged by events, whose value is not looked at: the first event that is not as it should be
}

// String names the register, and the event.
func (d Difference) String() string {
	if d.Event != "" {
		return fmt.Sprintf("PCR %d: %s", d.Index, d.Event)
	}
	return fmt.Sprintf("PCR %d is %x, want %x", d.Index, d.Got, d.Want)
}

// Compare returns the registers that differ from the reference. measured are values that a TPM quoted, log is what explains those of
// registers 0 to 7: whoever calls has replayed it, and it gave these values. nil = none came. A register judged by events must have
// exactly those of the reference, in order: a type or a digest that is not listed is a difference, whatever it is.
func (v Values) Compare(measured []PCR, log *eventlog.Log) []Difference {
	var list []Difference
	for _, m := range measured {
		d := Difference{Index: m.Index, Got: m.Digest}
		want, found := v.Lookup(m.Index)
		switch {
		case !found:
			d.Event = "the reference does not speak of it"
		case len(want.Events) == 0:
			d.Want = want.Digest
			if d.Got == d.Want {
				continue
			}
		case log == nil:
			d.Event = "no event log came with it"
		default:
			if d.Event = judge(log.Of(m.Index), want.Events); d.Event == "" {
				continue
			}
		}
		list = append(list, d)
	}
	return list
}

// judge returns what is wrong with the events of a register, or nothing.
func judge(got []eventlog.Event, want []Event) string {
	for _, e := range got {
		switch {
		case len(want) > 0 && want[0] == Event{e.Type, e.Digest}:
			want = want[1:]
		case e.MayVary(): // unless the reference lists it, which then misses it
		case len(want) == 0:
			return fmt.Sprintf("%s %x is not known", e, e.Digest)
		default:
			return fmt.Sprintf("%s %x in place of %s %x", e, e.Digest, want[0].Type, want[0].Digest)
		}
	}
	if len(want) > 0 {
		return fmt.Sprintf("%s %x is missing", want[0].Type, want[0].Digest)
	}
	return ""
}
