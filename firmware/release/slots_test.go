// SPDX-License-Identifier: Apache-2.0

package release

import (
	"bytes"
	"io"
	"math/rand/v2"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/require"
)

const imageSize = 96 << 10

// update is a release with its files.
type update struct {
	Release
	full, delta []byte
}

const oldVersion = "2026.11.20"

func updateOf(t testing.TB, image, old []byte) update {
	t.Helper()
	u := update{Release: sample(), full: encoded(t, small(), image, nil), delta: encoded(t, small(), image, old)}
	u.Image, u.Full = DigestOf(image), DigestOf(u.full)
	u.Deltas = []Delta{{oldVersion, DigestOf(old), DigestOf(u.delta)}}
	return u
}

func (u update) installDelta(m *machine) error {
	return slotsOf(m).Install(u.Release, oldVersion, bytes.NewReader(u.delta), func(int64, int64) {})
}

func (u update) installFull(m *machine) error {
	return slotsOf(m).Install(u.Release, "", bytes.NewReader(u.full), func(int64, int64) {})
}

func settled(t testing.TB, m *machine) State {
	t.Helper()
	state, err := slotsOf(m).Settle()
	require.NoError(t, err)
	return state
}

func TestNewSystemIsTriedOnceAndStaysAfterItsCommit(t *testing.T) {
	old, image := picture(1, imageSize), picture(2, imageSize)
	u := updateOf(t, image, old)
	for name, install := range map[string]func(*machine) error{"full": u.installFull, "delta": u.installDelta} {
		m := newMachine(old)
		require.Equal(t, State{Running: A}, settled(t, m), name)
		require.Equal(t, []uint16{0x5D0A, 0x5D0B, 0, 1}, entries(t, m, "BootOrder"), "what others wrote stays")
		require.NoError(t, install(m), name)
		require.Equal(t, []uint16{0x5D0B}, entries(t, m, "BootNext"))

		require.Equal(t, image, runsOneOf(t, m, old, image))
		require.Equal(t, State{B, true, u.Image.SHA256, 1}, settled(t, m))
		require.ErrorIs(t, install(m), ErrTrial, "the only system known to be good is not overwritten")
		require.Equal(t, old, runsOneOf(t, m, old, image), "no commit: the firmware falls back by itself")
		require.Equal(t, State{A, false, u.Image.SHA256, 1}, settled(t, m))

		require.NoError(t, install(m), name)
		require.Equal(t, image, runsOneOf(t, m, old, image))
		require.Equal(t, State{B, true, u.Image.SHA256, 2}, settled(t, m))
		require.NoError(t, slotsOf(m).Commit())
		require.NoError(t, slotsOf(m).Commit(), "once more is nothing")
		require.Equal(t, []uint16{0x5D0B, 0x5D0A, 0, 1}, entries(t, m, "BootOrder"))
		require.Equal(t, image, runsOneOf(t, m, old, image))
		require.Equal(t, State{Running: B}, settled(t, m))
		before := m.effects
		settled(t, m)
		require.Equal(t, before, m.effects, "a settled machine is not written to")
	}
}

func TestReleaseThatNeverComesToACommitIsGivenUp(t *testing.T) {
	old, image := picture(1, imageSize), picture(2, imageSize)
	u, m := updateOf(t, image, old), newMachine(old)
	settled(t, m)
	for range MaxTries {
		require.NoError(t, u.installDelta(m))
		runsOneOf(t, m, image)
		runsOneOf(t, m, old)
	}
	before := m.effects
	require.ErrorIs(t, u.installDelta(m), ErrGivenUp)
	require.Equal(t, before, m.effects)
	other := updateOf(t, picture(3, imageSize), old)
	require.NoError(t, other.installFull(m), "another release is another matter")
}

// TestPowerCutAtAnyWriteLeavesASystemThatBoots cuts a whole update at each of its writes, several times with other luck, and again
// while it is made good. After every cut the machine must run the old or the new system, whole; and in the end the new one.
func TestPowerCutAtAnyWriteLeavesASystemThatBoots(t *testing.T) {
	old, image := picture(1, imageSize), picture(2, imageSize)
	u := updateOf(t, image, old)
	// round goes on from whatever runs, to the new system and its commit, and says whether it got there.
	round := func(m *machine) bool {
		state, err := slotsOf(m).Settle()
		if err == nil && !state.Trial && bytes.Equal(m.slots[state.Running], old) {
			if err = u.installDelta(m); err == nil {
				cut := m.cutAt
				require.Equal(t, image, runsOneOf(t, m, image), "armed")
				m.cutAt = cut
				_, err = slotsOf(m).Settle()
			}
		}
		return err == nil && slotsOf(m).Commit() == nil
	}
	m := newMachine(old)
	require.True(t, round(m))
	all := m.effects
	require.Greater(t, all, 15)
	for cut := 1; cut <= all; cut++ {
		for seed := range uint64(12) {
			m := newMachine(old)
			m.chance = rand.New(rand.NewPCG(seed, uint64(cut)))
			m.cutAt = cut
			for range 20 {
				if round(m) {
					break
				}
				runsOneOf(t, m, old, image)
				m.cutAt = m.effects + 1 + m.chance.IntN(3*all)
			}
			require.Equal(t, image, runsOneOf(t, m, old, image), "cut %d, seed %d", cut, seed)
		}
	}
}

func TestRefusedUpdateTouchesNothing(t *testing.T) {
	old := picture(1, imageSize)
	image := append(bytes.Clone(old[:40<<10]), append([]byte("a few words more"), old[40<<10:imageSize-16]...)...)
	u := updateOf(t, image, old)
	m := newMachine(old)
	settled(t, m)
	before := m.effects
	try := func(r Release, from string, in io.Reader, want error) {
		t.Helper()
		require.ErrorIs(t, slotsOf(m).Install(r, from, in, func(int64, int64) {}), want)
		require.Equal(t, before, m.effects, "something was written")
	}
	for cut := range u.delta {
		try(u.Release, oldVersion, bytes.NewReader(u.delta[:cut]), ErrTransfer)
		bad := bytes.Clone(u.delta)
		bad[cut] ^= 1
		try(u.Release, oldVersion, bytes.NewReader(bad), ErrTransfer)
	}
	try(u.Release, oldVersion, bytes.NewReader(append(bytes.Clone(u.delta), 0)), ErrTransfer)
	try(u.Release, oldVersion, bytes.NewReader(u.full), ErrTransfer)
	try(u.Release, "2020.1.1", bytes.NewReader(u.delta), ErrTransfer)
	try(u.Release, oldVersion, iotest.ErrReader(io.ErrNoProgress), io.ErrNoProgress)
	try(u.Release, oldVersion, io.MultiReader(bytes.NewReader(u.delta), iotest.ErrReader(io.ErrNoProgress)), io.ErrNoProgress)
	large := u.Release
	large.Image.Size += sectorSize
	try(large, "", bytes.NewReader(u.full), ErrSize)
	m.slots[A][5000] ^= 1
	try(u.Release, oldVersion, bytes.NewReader(u.delta), ErrBase)
	delete(m.variables, "BootCurrent"+bootVendor)
	delete(m.variables, "LoaderDevicePartUUID"+loaderVendor)
	try(u.Release, oldVersion, bytes.NewReader(u.delta), ErrNoSlot)
}

func TestSlotThatIsNotWhatWasSignedIsNeverArmed(t *testing.T) {
	old, image := picture(1, imageSize), picture(2, imageSize)
	good := updateOf(t, image, old)
	for name, change := range map[string]func(*update, *machine){
		"signed, but makes another image": func(u *update, _ *machine) { u.Image.SHA256[0] ^= 1 },
		"signed, but makes more":          func(u *update, _ *machine) { u.Image.Size -= 16 << 10 },
		"signed, but a bomb": func(u *update, _ *machine) {
			u.full = hostileFiles(t)["a bomb"]
			u.Full = DigestOf(u.full)
		},
		"the firmware takes no BootNext": func(_ *update, m *machine) { m.broken["BootNext"+bootVendor] = true },
		"the firmware takes no trial":    func(_ *update, m *machine) { m.broken[trialName] = true },
		"the idle slot is in use":        func(_ *update, m *machine) { m.open[B] = true },
	} {
		u, m := good, newMachine(old)
		settled(t, m)
		change(&u, m)
		require.Error(t, u.installFull(m), name)
		require.Empty(t, entries(t, m, "BootNext"), name)
		require.Equal(t, old, m.slots[A], name)
		require.Equal(t, old, runsOneOf(t, m, old), name)
	}
}

// liar is a disk that keeps another byte than it was told.
type liar struct {
	*machine
	at int64
}

func (l liar) Write(slot Slot) (Store, error) {
	s, err := l.machine.Write(slot)
	return lying{s, l}, err
}

type lying struct {
	Store
	l liar
}

func (l lying) Sync() error {
	err := l.Store.Sync()
	l.l.slots[B][l.l.at] = 0x77
	return err
}

func TestDiskThatKeepsAnotherByteIsFound(t *testing.T) {
	old, image := picture(1, imageSize), make([]byte, imageSize)
	u := updateOf(t, image, old)
	for _, at := range []int64{0, headSize - 1, headSize, imageSize - 1} {
		m := newMachine(old)
		settled(t, m)
		s := &Slots{vars{m}, liar{m, at}, small()}
		require.ErrorIs(t, s.Install(u.Release, "", bytes.NewReader(u.full), func(int64, int64) {}), ErrDisk)
		require.Empty(t, entries(t, m, "BootNext"))
	}
}

func TestProgressRisesToItsEnd(t *testing.T) {
	old, image := picture(1, imageSize), picture(2, imageSize)
	u, m := updateOf(t, image, old), newMachine(old)
	settled(t, m)
	var last int64
	require.NoError(t, slotsOf(m).Install(u.Release, "", bytes.NewReader(u.full), func(done, total int64) {
		require.Greater(t, done, last)
		require.EqualValues(t, 2*imageSize, total)
		last = done
	}))
	require.EqualValues(t, 2*imageSize, last)
}

// TestSystemThatStartedFromTheIdleSlotByItselfIsNoTrial: the first slot's disk sectors have gone, the firmware took the second one.
func TestSystemThatStartedFromTheIdleSlotByItselfIsNoTrial(t *testing.T) {
	old, image := picture(1, imageSize), picture(2, imageSize)
	m := newMachine(old)
	settled(t, m)
	m.slots[B] = bytes.Clone(image)
	m.slots[A][510] = 0
	require.Equal(t, image, runsOneOf(t, m, image))
	require.Equal(t, State{Running: B}, settled(t, m))
	u := updateOf(t, old, image)
	require.NoError(t, u.installDelta(m), "the bad slot is made good")
	require.Equal(t, []uint16{0x5D0B, 0x5D0A, 0, 1}, entries(t, m, "BootOrder"), "what runs comes first while the other is on trial")
	require.Equal(t, old, runsOneOf(t, m, old))
	require.Equal(t, image, runsOneOf(t, m, image))
}

// FuzzVariables: the firmware's variables may hold anything, whoever wrote them.
func FuzzVariables(f *testing.F) {
	f.Add([]byte{0x0A, 0x5D}, wide("00000001-0000-0000-0000-000000000001"), []byte{0x0B, 0x5D, 0x0A, 0x5D, 1}, trial{B, 1, [32]byte{1}}.bytes())
	f.Add([]byte{0, 0}, wide("00000001-0000-0000-0000-000000000001"), []byte{}, trial{A, 255, [32]byte{1}}.bytes())
	f.Add([]byte{0}, []byte{1}, bytes.Repeat([]byte{1}, 4*maxOrder), []byte{9})
	f.Add([]byte{0x0B, 0x5D}, []byte{}, []byte{0x0A, 0x5D}, trial{B, 2, [32]byte{1}}.bytes())
	f.Add([]byte{0x0B, 0x5D}, []byte{}, []byte{0x0A, 0x5D, 0x0B, 0x5D}, trial{B, 2, [32]byte{1}}.bytes())
	old := picture(1, imageSize)
	f.Fuzz(func(t *testing.T, current, uuid, order, tried []byte) {
		m := newMachine(old)
		m.variables["BootCurrent"+bootVendor], m.variables["LoaderDevicePartUUID"+loaderVendor] = current, uuid
		m.variables["BootOrder"+bootVendor], m.variables[trialName] = order, tried
		state, err := slotsOf(m).Settle()
		if err != nil {
			require.ErrorIs(t, err, ErrNoSlot)
			return
		}
		again, err := slotsOf(m).Settle()
		require.NoError(t, err)
		require.Equal(t, state.Trial, again.Trial, "settling decides nothing")
		require.NoError(t, slotsOf(m).Commit())
		after, err := slotsOf(m).State()
		require.NoError(t, err)
		require.False(t, after.Trial)
		require.Equal(t, state.Running, after.Running)
	})
}
