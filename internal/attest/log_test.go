// SPDX-License-Identifier: Apache-2.0

package attest

import (
	"slices"
	"testing"

	"sdbox/firmware/eventlog"

	"github.com/stretchr/testify/require"
)

func TestEventLogMustGiveTheFirmwareRegistersQuoted(t *testing.T) {
	b := newBox(t)
	q := b.quote(t)
	for name, c := range map[string]struct {
		reason Reason
		change func(*eventlog.Log)
	}{
		"a digest changed":       {OtherLog, func(l *eventlog.Log) { l.Events[0].Digest[0] ^= 1 }},
		"an event left out":      {OtherLog, func(l *eventlog.Log) { l.Events = l.Events[1:] }},
		"two events exchanged":   {OtherLog, func(l *eventlog.Log) { l.Events[1], l.Events[2] = l.Events[2], l.Events[1] }},
		"an event made up":       {OtherLog, func(l *eventlog.Log) { l.Events = append(l.Events, eventlog.Event{PCR: 7}) }},
		"another locality":       {OtherLog, func(l *eventlog.Log) { l.Locality = 3 }},
		"nothing":                {OtherLog, func(l *eventlog.Log) { l.Events = nil }},
		"Linux measured another": {"", func(l *eventlog.Log) { l.Events = append(l.Events, eventlog.Event{PCR: 9}) }}, // not the firmware's: judged by its value
		"another type, data":     {"", func(l *eventlog.Log) { l.Events[0].Type, l.Events[0].Data = 9, nil }},         // no digest covers them
	} {
		ev, log := *q.ev, *b.log
		log.Events = slices.Clone(log.Events)
		c.change(&log)
		ev.Log = log.Encode()
		if _, err := Check(&ev, q.want); c.reason != "" {
			requireReason(t, c.reason, err, name)
		} else {
			require.NoError(t, err, name)
		}
	}
	ev := *q.ev
	ev.Log = nil
	facts, err := Check(&ev, q.want)
	require.NoError(t, err, "a machine that keeps no log")
	require.Nil(t, facts.Log)
	for _, bad := range [][]byte{q.ev.Log[1:], q.ev.Log[:len(q.ev.Log)-1], make([]byte, maxLog+1)} {
		ev.Log = bad
		_, err := Check(&ev, q.want)
		requireReason(t, Malformed, err, "no log")
	}
	long := &eventlog.Log{}
	for range 5 {
		long.Events = append(long.Events, eventlog.Event{Data: make([]byte, 16<<10)})
	}
	_, err = Make(b.tpm, q.binding(), nil, long)
	require.ErrorContains(t, err, "limit")
}
