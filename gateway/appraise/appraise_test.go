// SPDX-License-Identifier: Apache-2.0

package appraise_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"sdbox/firmware/eventlog"
	"sdbox/firmware/reference"
	"sdbox/gateway/appraise"
	"sdbox/internal/attest"
	"sdbox/internal/seal"
	"sdbox/internal/tpm"
	"sdbox/internal/tpm/tpmsim"
	"sdbox/internal/wire"

	"github.com/stretchr/testify/require"
)

// house is a box that went through the recorded boot, and a verifier that expects that boot.
type house struct {
	cfg      tpmsim.Config
	sim      *tpmsim.Sim
	tpm      *tpm.TPM
	verifier *appraise.Verifier
	secret   string // release key
	spki     []byte
	akName   []byte
	tunnel   wire.Key
	log      *eventlog.Log // of its last boot
}

func newHouse(t *testing.T) *house {
	t.Helper()
	dir := t.TempDir()
	h := &house{cfg: tpmsim.Config{Dir: dir, Socket: filepath.Join(dir, "s")}, tunnel: wire.Key{1}}
	h.boot(t, nil)
	t.Cleanup(func() { require.NoError(t, h.sim.Stop()) })
	var err error
	h.tpm, err = tpm.Open(h.sim.Spec())
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, h.tpm.Close()) })
	require.NoError(t, h.tpm.EnsureDeviceKey())
	device, err := h.tpm.DevicePublic()
	require.NoError(t, err)
	ak, err := h.tpm.AttestationKey()
	require.NoError(t, err)
	h.spki, h.akName = device.SPKI, ak.Name

	var public string
	h.secret, public, err = reference.GenerateKey("release-1.lab")
	require.NoError(t, err)
	trust, err := reference.NewTrust(1, public)
	require.NoError(t, err)
	h.verifier = appraise.New(trust, "sdbox", "test")
	require.NoError(t, h.verifier.Use(h.note(t, golden(t, "2026.11.24"))))
	return h
}

// boot switches the box on, or off and on, and takes it through the recorded boot, tampered with.
func (h *house) boot(t *testing.T, tamper func([]eventlog.Event) []eventlog.Event) {
	t.Helper()
	if h.sim != nil {
		require.NoError(t, h.sim.Stop())
	}
	var err error
	h.sim, err = tpmsim.Start(t.Context(), h.cfg)
	require.NoError(t, err)
	list, err := tpmsim.RecordedBoot()
	require.NoError(t, err)
	if tamper != nil {
		list.Events = tamper(list.Events)
	}
	require.NoError(t, tpmsim.Boot(h.cfg.Socket, list))
	h.log = list
}

func golden(t *testing.T, version string) reference.Values {
	t.Helper()
	list, err := tpmsim.RecordedBoot()
	require.NoError(t, err)
	predicted := list.Replay()
	v := reference.Values{Name: "lab-qemu", Version: version}
	for _, r := range attest.Registers() {
		v.PCRs = append(v.PCRs, reference.PCR{Index: r, Digest: predicted[r]})
	}
	return v
}

func (h *house) note(t *testing.T, v reference.Values) []byte {
	t.Helper()
	signed, err := reference.Sign(v, h.secret)
	require.NoError(t, err)
	return signed
}

// attest has the box make evidence over a fresh connection, and gives what the gateway knows of that connection.
func (h *house) attest(t *testing.T, previous []byte) (*wire.Evidence, attest.Expectations) {
	t.Helper()
	nonce, exporter := make([]byte, 32), make([]byte, 32)
	rand.Read(nonce)
	rand.Read(exporter)
	gateway := []byte("gateway key")
	ev, err := attest.Make(h.tpm, attest.Binding{Nonce: nonce, GatewaySPKI: gateway, TunnelKey: h.tunnel, Exporter: exporter}, previous, h.log)
	require.NoError(t, err)
	return ev, attest.Expectations{Nonce: nonce, DeviceSPKI: h.spki, GatewaySPKI: gateway, Exporter: exporter, AKName: h.akName}
}

func requireReason(t *testing.T, want attest.Reason, err error) {
	t.Helper()
	got, found := attest.ReasonOf(err)
	require.True(t, found, "%v", err)
	require.Equal(t, want, got, "%v", err)
}

func TestGoodBoxGetsASealedResult(t *testing.T) {
	h := newHouse(t)
	ev, want := h.attest(t, nil)
	at := time.Now()
	result, err := h.verifier.Appraise(ev, want, nil, at)
	require.NoError(t, err)
	require.True(t, result.Affirmed())

	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	signer, err := seal.NewSigner(key, "gw1.lab")
	require.NoError(t, err)
	statement, err := signer.Seal(appraise.Type, "lab", time.Minute, result)
	require.NoError(t, err)
	require.Less(t, len(statement), 1024)
	verifier, err := seal.NewVerifier("lab", key.Public())
	require.NoError(t, err)
	var opened appraise.Result
	_, err = verifier.Open(statement, appraise.Type, &opened)
	require.NoError(t, err)
	require.Equal(t, *result, opened)
	device := sha256.Sum256(h.spki)
	require.Equal(t, device[:], opened.Box().DeviceKey)
	require.Equal(t, h.akName, opened.Box().AKName)
	require.Equal(t, h.tunnel, opened.Box().TunnelKey)
	require.Equal(t, "lab-qemu 2026.11.24", opened.Parts["box"].Policy)
	require.Equal(t, at.Unix(), opened.IssuedAt)
	require.False(t, (&appraise.Result{}).Affirmed())
}

func TestChangedRegisterIsRefusedAndNamed(t *testing.T) {
	h := newHouse(t)
	for name, c := range map[string]struct {
		tamper  func([]eventlog.Event) []eventlog.Event
		differs []uint8
	}{
		"a file beside the image": {func(l []eventlog.Event) []eventlog.Event {
			return append(l, eventlog.Event{PCR: 12, Digest: [32]byte{1}}, eventlog.Event{PCR: 13, Digest: [32]byte{2}})
		}, []uint8{12, 13}},
		"another initrd": {func(l []eventlog.Event) []eventlog.Event {
			for i := range l {
				if l[i].String() == "EV_EVENT_TAG Linux initrd" {
					l[i].Digest[0] ^= 1
				}
			}
			return l
		}, []uint8{9}},
		"nothing measured": {func([]eventlog.Event) []eventlog.Event { return nil }, []uint8{0, 1, 2, 3, 4, 5, 6, 7, 9, 11}},
	} {
		h.boot(t, c.tamper)
		ev, want := h.attest(t, nil)
		_, err := h.verifier.Appraise(ev, want, nil, time.Now())
		requireReason(t, appraise.ChangedRegisters, err)
		var changed *appraise.Changed
		require.True(t, errors.As(err, &changed), name)
		require.Equal(t, "lab-qemu 2026.11.24", changed.Reference)
		var differs []uint8
		for _, d := range changed.Differences {
			differs = append(differs, d.Index)
		}
		require.Equal(t, c.differs, differs, name)
		require.ErrorContains(t, err, "PCR ")
	}
}

func TestFirmwareJudgedByEventsMayChangeItsBootEntriesOnly(t *testing.T) {
	h := newHouse(t)
	byEvents := golden(t, "by-events")
	list, err := tpmsim.RecordedBoot()
	require.NoError(t, err)
	for i, p := range byEvents.PCRs {
		if slices.Contains(reference.ByEvents(), p.Index) {
			byEvents.PCRs[i] = reference.FromLog(p.Index, list)
		}
	}
	require.NoError(t, h.verifier.Use(h.note(t, byEvents)))
	entry := slices.IndexFunc(list.Events, eventlog.Event.BootVariable)
	h.boot(t, func(l []eventlog.Event) []eventlog.Event { return append(l, l[entry]) })
	ev, want := h.attest(t, nil)
	_, err = h.verifier.Appraise(ev, want, nil, time.Now())
	require.NoError(t, err)
	h.log = nil
	ev, want = h.attest(t, nil)
	_, err = h.verifier.Appraise(ev, want, nil, time.Now())
	requireReason(t, appraise.ChangedRegisters, err)
	require.ErrorContains(t, err, "PCR 1: no event log came with it")
	h.boot(t, func(l []eventlog.Event) []eventlog.Event {
		return append(l, eventlog.Event{PCR: 2, Type: 0x80000004, Digest: [32]byte{1}})
	})
	ev, want = h.attest(t, nil)
	_, err = h.verifier.Appraise(ev, want, nil, time.Now())
	requireReason(t, appraise.ChangedRegisters, err)
	require.ErrorContains(t, err, "PCR 2: EV_EFI_BOOT_SERVICES_DRIVER 01")
}

func TestUpdatePassesOnceItsReferencesAreInUse(t *testing.T) {
	h := newHouse(t)
	next := golden(t, "2026.12.1")
	for i := range next.PCRs {
		if next.PCRs[i].Index == 9 {
			list, err := tpmsim.RecordedBoot()
			require.NoError(t, err)
			next.PCRs[i].Digest = (&eventlog.Log{Events: append(list.Events, eventlog.Event{PCR: 9, Digest: [32]byte{7}})}).Replay()[9]
		}
	}
	h.boot(t, func(l []eventlog.Event) []eventlog.Event {
		return append(l, eventlog.Event{PCR: 9, Digest: [32]byte{7}})
	})
	ev, want := h.attest(t, nil)
	_, err := h.verifier.Appraise(ev, want, nil, time.Now())
	requireReason(t, appraise.ChangedRegisters, err)
	require.NoError(t, h.verifier.Use(h.note(t, golden(t, "2026.11.24")), h.note(t, next)))
	result, err := h.verifier.Appraise(ev, want, nil, time.Now())
	require.NoError(t, err)
	require.Equal(t, "lab-qemu 2026.12.1", result.Parts["box"].Policy)
	require.NoError(t, h.verifier.Use())
	_, err = h.verifier.Appraise(ev, want, nil, time.Now())
	requireReason(t, appraise.NoReference, err)
}

func TestReferencesThatLeaveAGapAreRefusedAndChangeNothing(t *testing.T) {
	h := newHouse(t)
	sideloaded, missing, extra := golden(t, "v"), golden(t, "v"), golden(t, "v")
	for i := range sideloaded.PCRs {
		if sideloaded.PCRs[i].Index == 12 {
			sideloaded.PCRs[i].Digest = [32]byte{1}
		}
	}
	missing.PCRs = missing.PCRs[1:]
	extra.PCRs = append(extra.PCRs, reference.PCR{Index: 15})
	stranger, _, err := reference.GenerateKey("release-1.lab")
	require.NoError(t, err)
	unsigned, err := reference.Sign(golden(t, "v"), stranger)
	require.NoError(t, err)
	require.ErrorContains(t, h.verifier.Use(h.note(t, sideloaded)), "must be zero")
	require.ErrorContains(t, h.verifier.Use(h.note(t, missing)), "register 0 is missing")
	require.ErrorContains(t, h.verifier.Use(h.note(t, extra)), "not quoted")
	require.ErrorIs(t, h.verifier.Use(h.note(t, golden(t, "v")), unsigned), reference.ErrUnsigned)
	ev, want := h.attest(t, nil)
	_, err = h.verifier.Appraise(ev, want, nil, time.Now())
	require.NoError(t, err, "the references before are still in use")
}

func TestReattestationFollowsItsResultOnly(t *testing.T) {
	h := newHouse(t)
	ev, want := h.attest(t, nil)
	first, err := h.verifier.Appraise(ev, want, nil, time.Now())
	require.NoError(t, err)
	previous := &appraise.Previous{Statement: []byte("sealed result"), Result: first}
	hash := sha256.Sum256(previous.Statement)

	ev, want = h.attest(t, hash[:])
	second, err := h.verifier.Appraise(ev, want, previous, time.Now())
	require.NoError(t, err)
	require.Equal(t, hash[:], second.Box().Previous)

	ev, want = h.attest(t, nil)
	_, err = h.verifier.Appraise(ev, want, previous, time.Now())
	requireReason(t, attest.OtherPrevious, err)

	h.tunnel = wire.Key{2}
	ev, want = h.attest(t, hash[:])
	_, err = h.verifier.Appraise(ev, want, previous, time.Now())
	requireReason(t, attest.OtherTunnelKey, err)

	h.tunnel = wire.Key{1}
	h.boot(t, nil)
	ev, want = h.attest(t, hash[:])
	_, err = h.verifier.Appraise(ev, want, previous, time.Now())
	requireReason(t, attest.Restarted, err)
	_, err = h.verifier.Appraise(ev, want, nil, time.Now())
	require.NoError(t, err, "a fresh boot is a new chain")
	_, err = h.verifier.Appraise(ev, attest.Expectations{}, nil, time.Now())
	requireReason(t, attest.OtherAK, err)
}
