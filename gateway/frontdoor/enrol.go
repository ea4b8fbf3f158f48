// SPDX-License-Identifier: Apache-2.0

package frontdoor

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"time"

	"sdbox/gateway/registry"
	"sdbox/gateway/store"
	"sdbox/internal/attest"
	"sdbox/internal/refusal"
	"sdbox/internal/wire"
	"sdbox/pki/profile"
)

// maxAudited is how many refusals of one box, and of all machines that are not registered, are audited in a minute; more are only
// logged. Anyone can cause them: an endorsement key is no secret.
const maxAudited = 20

var errNotRegistered = errors.New("no box with this endorsement key is registered (sdboxctl box add)")

// enrol gives a registered machine its certificate. Nothing it says is believed before it has opened a credential that only the TPM
// with the registered endorsement key can open (TPM 2.0 Part 1, 24).
func (v *visit) enrol(ctx context.Context) error {
	m, err := v.line.Read()
	if err != nil {
		return err
	}
	request, ok := m.(*wire.EnrolRequest)
	if !ok {
		return fmt.Errorf("%T from a machine without a certificate", m)
	}
	enrolment, challenge, err := attest.Challenge(request)
	if err != nil {
		return v.refuse(ctx, m, "", err)
	}
	box, err := v.registered(ctx, enrolment.EKHash)
	if err != nil {
		return v.refuse(ctx, m, box.Serial, err)
	}
	if roots := v.door.conf.EKRoots; roots != nil {
		if _, err := roots.Check(enrolment.EKCertificate, enrolment.EKPublic, time.Now()); err != nil {
			return v.refuse(ctx, m, box.Serial, err)
		}
	}
	if err := v.line.Write(challenge); err != nil {
		return err
	}
	if m, err = v.line.Read(); err != nil {
		return err
	}
	answer, ok := m.(*wire.EnrolAnswer)
	if !ok {
		return fmt.Errorf("%T in place of an answer", m)
	}
	if err := enrolment.Check(answer); err != nil {
		return v.refuse(ctx, m, box.Serial, err)
	}
	return v.certify(ctx, m, box, enrolment)
}

// registered finds the box by its endorsement key: who enrols is looked up by nothing else.
func (v *visit) registered(ctx context.Context, ek [32]byte) (registry.Box, error) {
	box, err := v.door.conf.Registry.BoxByEK(ctx, ek)
	if errors.Is(err, store.ErrNotFound) {
		return registry.Box{}, fmt.Errorf("%w: EK %x", errNotRegistered, ek)
	}
	if err != nil {
		return registry.Box{}, err
	}
	return box, v.door.usable(ctx, box)
}

// usable says whether a box is in use and under no lock.
func (d *Door) usable(ctx context.Context, box registry.Box) error {
	if box.State == registry.Retired {
		return errors.New("the box is retired")
	}
	locks, err := d.conf.Registry.LocksOn(ctx, registry.BoxName(box.Serial), "site:"+box.Site)
	if err != nil {
		return err
	}
	if len(locks) > 0 {
		return fmt.Errorf("lock on %s: %s", locks[0].Target, locks[0].Message)
	}
	return nil
}

// certify issues the device certificate and records it; a box has one that counts, the newest.
func (v *visit) certify(ctx context.Context, m wire.Message, box registry.Box, e *attest.Enrolment) error {
	d := v.door
	issued, err := d.conf.Devices.Issue(profile.Device{Serial: box.Serial, AKName: e.AKName, Key: e.Device})
	if err != nil {
		return err
	}
	leaf := issued.Chain[0]
	if err := d.conf.Registry.EnrolBox(ctx, d.actor(), box.Serial, e.AKName, sha256.Sum256(leaf)); errors.Is(err, store.ErrConflict) {
		return v.refuse(ctx, m, box.Serial, err)
	} else if err != nil {
		return err
	}
	d.conf.Log.Info("box enrolled", "room", "frontdoor", "box", box.Serial, "from", v.from)
	return v.line.Write(&wire.EnrolResult{Chain: issued.Chain})
}

func (d *Door) actor() string { return "gateway:" + d.conf.Name }

// refuse answers B03, which says nothing of the reason; the reason is in the audit under the code's suffix, and in the log. The
// connection is over then.
func (v *visit) refuse(ctx context.Context, m wire.Message, serial string, reason error) error {
	d := v.door
	why := refusal.New(refusal.NotIntact)
	e := store.Entry{Actor: d.actor(), Action: "box.refused", Object: "box:" + serial, Code: why.Error(), Fields: map[string]string{"cause": reason.Error(), "from": v.from}}
	if serial == "" {
		e.Object = "gateway:" + d.conf.Name
	}
	if r, ok := attest.ReasonOf(reason); ok {
		e.Fields["reason"] = string(r)
	}
	d.conf.Log.Warn("box refused", "room", "frontdoor", "box", serial, "from", v.from, "code", why.Error(), "err", reason)
	if d.audited(serial, time.Now()) {
		if err := d.conf.Store.Change(ctx, e, func(*store.Tx) error { return nil }); err != nil {
			return err
		}
	}
	return v.line.Write(&wire.Refused{Refusal: why, Re: wire.TypeOf(m), Release: d.offerTo(ctx, serial)})
}

// audited says whether one more refusal of a box, or of a stranger, is worth a row.
func (d *Door) audited(serial string, now time.Time) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	recent := slices.DeleteFunc(d.refused[serial], func(t time.Time) bool { return now.Sub(t) > time.Minute })
	worth := len(recent) < maxAudited
	if worth {
		recent = append(recent, now)
	}
	d.refused[serial] = recent
	return worth
}
