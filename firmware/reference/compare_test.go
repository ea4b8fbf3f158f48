// SPDX-License-Identifier: Apache-2.0

package reference

import (
	"crypto/sha256"
	"os"
	"slices"
	"testing"

	"sdbox/firmware/eventlog"
	"sdbox/internal/tpm/tpmsim"

	"github.com/stretchr/testify/require"
)

// recorded is a real boot, the registers it leaves, and a reference that judges the firmware's by events.
func recorded(t *testing.T) (*eventlog.Log, Values) {
	t.Helper()
	log, err := tpmsim.RecordedBoot()
	require.NoError(t, err)
	v := Values{Name: "lab-qemu", Version: "1"}
	for _, p := range measured(log) {
		if slices.Contains(ByEvents(), p.Index) {
			p = FromLog(p.Index, log)
		}
		v.PCRs = append(v.PCRs, p)
	}
	return log, v
}

func measured(log *eventlog.Log) []PCR {
	var list []PCR
	values := log.Replay()
	for index := range uint8(10) {
		list = append(list, PCR{Index: index, Digest: values[index]})
	}
	return list
}

func words(list []Difference) []string {
	var out []string
	for _, d := range list {
		out = append(out, d.String())
	}
	return out
}

func TestFirmwareIsKnownByItsEventsWhateverItsBootEntries(t *testing.T) {
	log, v := recorded(t)
	require.Empty(t, v.Compare(measured(log), log))
	note, err := v.Text()
	require.NoError(t, err)
	require.Less(t, len(note), 4096)

	// An update swaps the boot order, and the firmware adds an entry of its own: register 1 is another, the machine the same.
	updated := &eventlog.Log{}
	for _, e := range log.Events {
		if e.BootVariable() && e.String() == "EV_EFI_VARIABLE_BOOT BootOrder" {
			e.Data = slices.Concat(e.Data[:len(e.Data)-4], []byte{2, 0, 1, 0})
			e.Digest = sha256.Sum256(e.Data[len(e.Data)-6:]) // three entries
			updated.Events = append(updated.Events, e)
			e = log.Events[10] // Boot0001 once more
		}
		updated.Events = append(updated.Events, e)
	}
	require.Len(t, updated.Events, len(log.Events)+1)
	require.NotEqual(t, log.Replay()[1], updated.Replay()[1])
	require.Empty(t, v.Compare(measured(updated), updated))
}

func TestDiskOfAnotherSizeIsNoOtherMachineUnlessItsLayoutIsListed(t *testing.T) {
	log, v := recorded(t)
	data, err := os.ReadFile("../eventlog/testdata/gpt-event")
	require.NoError(t, err)
	layout := eventlog.Event{PCR: 5, Type: 0x80000006, Digest: sha256.Sum256(data), Data: data}
	with := &eventlog.Log{Events: append(slices.Clone(log.Events), layout)}
	require.Empty(t, v.Compare(measured(with), with))
	for i := range v.PCRs {
		if v.PCRs[i].Index == 5 {
			v.PCRs[i].Events = append(v.PCRs[i].Events, Event{layout.Type, layout.Digest})
		}
	}
	require.Empty(t, v.Compare(measured(with), with))
	require.Equal(t, []string{"PCR 5: EV_EFI_GPT_EVENT bbf887a8bfee27be29480abe8919b0e21a36e95f6907a18dc34531d6045ae6a2 is missing"}, words(v.Compare(measured(log), log)))
}

func TestEveryOtherEventMustBeKnown(t *testing.T) {
	log, v := recorded(t)
	change := func(f func(events []eventlog.Event) []eventlog.Event) *eventlog.Log {
		return &eventlog.Log{Events: f(slices.Clone(log.Events))}
	}
	driver := eventlog.Event{PCR: 2, Type: 0x80000004, Digest: [32]byte{0xaa}}
	of := func(register uint8) int {
		return slices.IndexFunc(log.Events, func(e eventlog.Event) bool { return e.PCR == register })
	}
	for name, c := range map[string]struct {
		log  *eventlog.Log
		want string
	}{
		"an option ROM": {change(func(l []eventlog.Event) []eventlog.Event { return slices.Insert(l, of(2), driver) }),
			"PCR 2: EV_EFI_BOOT_SERVICES_DRIVER aa00000000000000000000000000000000000000000000000000000000000000 in place of EV_SEPARATOR df3f619804a92fdb4057192dc43dd748ea778adc52bc498ce80524c014b81119"},
		"one after the separator": {change(func(l []eventlog.Event) []eventlog.Event { return append(l, driver) }),
			"PCR 2: EV_EFI_BOOT_SERVICES_DRIVER aa00000000000000000000000000000000000000000000000000000000000000 is not known"},
		"other firmware": {change(func(l []eventlog.Event) []eventlog.Event { l[1].Digest[0] ^= 1; return l }),
			"PCR 0: EV_EFI_PLATFORM_FIRMWARE_BLOB c5ff2cfc23ae366d3dc54b6b90a673e1c59be7b89b26286d6d3bee37bb1b6852 in place of EV_EFI_PLATFORM_FIRMWARE_BLOB c4ff2cfc23ae366d3dc54b6b90a673e1c59be7b89b26286d6d3bee37bb1b6852"},
		"another type": {change(func(l []eventlog.Event) []eventlog.Event { l[of(6)].Type = 0xbad; return l }),
			"PCR 6: event 0x00000bad df3f619804a92fdb4057192dc43dd748ea778adc52bc498ce80524c014b81119 in place of EV_SEPARATOR df3f619804a92fdb4057192dc43dd748ea778adc52bc498ce80524c014b81119"},
		"nothing in it": {change(func(l []eventlog.Event) []eventlog.Event { return slices.Delete(l, of(3), of(3)+1) }),
			"PCR 3: EV_SEPARATOR df3f619804a92fdb4057192dc43dd748ea778adc52bc498ce80524c014b81119 is missing"},
		"a boot entry that is none": {change(func(l []eventlog.Event) []eventlog.Event { l[of(1)].Digest[0] ^= 1; return l }),
			"PCR 1: EV_EFI_VARIABLE_BOOT BootOrder 273d99957c7b574c63a265b32da7fff8b8ad831828946bfbff650d7074dd9198 in place of EV_SEPARATOR df3f619804a92fdb4057192dc43dd748ea778adc52bc498ce80524c014b81119"},
	} {
		require.Equal(t, []string{c.want}, words(v.Compare(measured(c.log), c.log)), name)
	}
	require.Equal(t, []string{"PCR 0: no event log came with it", "PCR 1: no event log came with it", "PCR 2: no event log came with it", "PCR 3: no event log came with it",
		"PCR 5: no event log came with it", "PCR 6: no event log came with it"}, words(v.Compare(measured(log), nil)))
	other := measured(log)
	other[9].Digest = [32]byte{0xbb}
	require.Equal(t, uint8(9), v.Compare(other, log)[0].Index, "a value is a value")
	require.Equal(t, []string{"PCR 20: the reference does not speak of it"}, words(v.Compare([]PCR{{Index: 20}}, log)))
}
