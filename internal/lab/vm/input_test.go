// SPDX-License-Identifier: Apache-2.0

package vm

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"sdbox/agent/keys"
	"sdbox/firmware/eventlog"
	"sdbox/internal/tpm/tpmsim"
	"sdbox/test/leak"

	"github.com/stretchr/testify/require"
)

func TestMain(m *testing.M) { os.Exit(leak.Main(m)) }

func TestInputEventsGetQEMUsWords(t *testing.T) {
	for name, c := range map[string]struct {
		event keys.Raw
		words string
	}{
		"a key":             {keys.Raw{Type: 1, Code: 30, Value: 1}, `[{"type":"key","data":{"down":true,"key":{"data":30,"type":"number"}}}]`},
		"an arrow, let go":  {keys.Raw{Type: 1, Code: 106, Value: 0}, `[{"type":"key","data":{"down":false,"key":{"data":205,"type":"number"}}}]`},
		"a repeat":          {keys.Raw{Type: 1, Code: 30, Value: 2}, `null`},
		"a button":          {keys.Raw{Type: 1, Code: 0x111, Value: 1}, `[{"type":"btn","data":{"button":"right","down":true}}]`},
		"a place":           {keys.Raw{Type: 3, Code: 1, Value: 16000}, `[{"type":"abs","data":{"axis":"y","value":16000}}]`},
		"the wheel, twice":  {keys.Raw{Type: 2, Code: 8, Value: -2}, `[{"type":"btn","data":{"button":"wheel-down","down":true}},{"type":"btn","data":{"button":"wheel-down","down":false}},{"type":"btn","data":{"button":"wheel-down","down":true}},{"type":"btn","data":{"button":"wheel-down","down":false}}]`},
		"a key without one": {keys.Raw{Type: 1, Code: 200, Value: 1}, ``},
		"a fourth button":   {keys.Raw{Type: 1, Code: 0x113, Value: 1}, ``},
		"a move":            {keys.Raw{Type: 2, Code: 0, Value: 1}, ``},
	} {
		made, err := translate(c.event)
		if c.words == "" {
			require.Error(t, err, name)
			continue
		}
		require.NoError(t, err, name)
		words, err := json.Marshal(made)
		require.NoError(t, err)
		require.JSONEq(t, c.words, string(words), name)
	}
}

// memoryOf is guest memory with a log where Linux keeps it: the last events, in a table of late ones, at the first page.
func memoryOf(log *eventlog.Log, late int) []byte {
	whole := log.Encode()
	early := (&eventlog.Log{Events: log.Events[:len(log.Events)-late]}).Encode()
	memory := make([]byte, 3*page+len(whole))
	binary.LittleEndian.PutUint64(memory, 1)
	binary.LittleEndian.PutUint64(memory[8:], uint64(late))
	copy(memory[lateHeader:], whole[len(early):])
	at := 2*page + 123
	binary.LittleEndian.PutUint32(memory[at:], uint32(len(early)))
	copy(memory[at+copyHeader:], early)
	return memory
}

func TestLogIsFoundInMemory(t *testing.T) {
	recorded, err := tpmsim.RecordedBoot()
	require.NoError(t, err)
	memory := memoryOf(recorded, 2)
	early, skip := findCopy(memory)
	require.Zero(t, skip)
	late := findLate(memory)
	require.Len(t, late, 1)
	log, err := eventlog.Parse(append(early, late[0]...))
	require.NoError(t, err)
	require.Equal(t, recorded.Replay(), log.Replay())
	none, _ := findCopy(bytes.ReplaceAll(memory, []byte("Spec"), []byte("spec")))
	require.Nil(t, none)
}

// FuzzMemory reads any bytes as the memory of a guest.
func FuzzMemory(f *testing.F) {
	recorded, err := tpmsim.RecordedBoot()
	require.NoError(f, err)
	good := memoryOf(recorded, 2)
	f.Add(good)
	f.Add(good[:page+100])
	f.Add(bytes.Clone(good)[2*page+120:])
	f.Add([]byte("Spec ID Event03\x00"))
	endless := bytes.Clone(good)
	binary.LittleEndian.PutUint32(endless[2*page+123:], 0xFFFFFFFF)
	binary.LittleEndian.PutUint32(endless[lateHeader+12:], 0xFFFF)
	f.Add(endless)
	f.Fuzz(func(t *testing.T, memory []byte) {
		if log, _ := findCopy(memory); len(log) > len(memory) {
			t.Fatal("a log longer than the memory")
		}
		for _, table := range findLate(memory) {
			if len(table) > len(memory) {
				t.Fatal("a table longer than the memory")
			}
		}
	})
}

// FuzzLog is a guest that writes anything to a port of its: no line is too long, and none is lost but for the oldest.
func FuzzLog(f *testing.F) {
	f.Add([]byte("{}\n"), 1)
	f.Add([]byte("no end of line"), 3)
	f.Add(bytes.Repeat([]byte{0}, maxLine+1), 2)
	f.Add([]byte("\r\n\n"), 40)
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, said []byte, times int) {
		l := newLog(filepath.Join(dir, "log"))
		whole := bytes.Repeat(said, max(0, min(times, 40)))
		require.NoError(t, l.read(bytes.NewReader(whole)))
		for _, line := range l.Lines() {
			require.LessOrEqual(t, len(line), maxLine)
		}
		require.GreaterOrEqual(t, l.Mark(), bytes.Count(whole, []byte("\n")))
		_, _, err := l.Await(t.Context(), l.Mark(), func(string) bool { return true })
		require.ErrorIs(t, err, errEnded)
		require.NoError(t, os.Truncate(l.Path(), 0))
	})
}
