// SPDX-License-Identifier: Apache-2.0

package vm

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"time"
)

// Accelerators of QEMU.
const (
	TCG = "tcg" // every instruction emulated: everywhere, and slow
	KVM = "kvm"
)

// proofWithin is how long the first guest may take. Where KVM works it takes a tenth of a second.
const proofWithin = 5 * time.Second

// proof is what the first guest writes to its serial port, from 64-bit code with paging on.
const proof = "long mode\n"

// proofBIOS is a machine's whole firmware of 64 KiB: it takes the processor from its reset to long mode and says so.
//
//	fa fc            cli; cld
//	31c0 8ed8..8ed0  ds = es = ss = 0
//	bf0010.. f3ab    zeros from 0x1000 on
//	c706....         page tables at 0x1000, 0x2000, 0x3000: the first 2 MiB as they are
//	0f20e0..0f22d8   cr4 PAE, cr3 = 0x1000
//	66b9..0f30       EFER.LME
//	2e660f0116       lgdt; then cr0 PE and PG
//	66ea             into 64-bit code: out "long mode\n" to 0x3f8, hlt
func proofBIOS() ([]byte, error) {
	code, err := hex.DecodeString("fafc31c08ed88ec08ed0bf0010b90018f3abc70600100320c70600200330c706003083000f20e00c200f22e066b8001000000f22d866b9800000c00f" +
		"3280cc010f302e660f011681000f20c0660d010000800f22c066ea5d000f000800baf8030000be87000f00b90a000000f36ef4ebfd00000000000000" +
		"0000000000009a20000f0071000f00" + hex.EncodeToString([]byte(proof)))
	if err != nil {
		return nil, err
	}
	image := make([]byte, 64<<10)
	copy(image, code)
	copy(image[0xfff0:], []byte{0xea, 0, 0, 0, 0xf0}) // the reset vector: ljmp 0xf000:0
	return image, nil
}

// Accelerator returns KVM if a guest really runs under it on this host, else TCG. A /dev/kvm may be there and open, and guests then fault
// or stand still.
func Accelerator(ctx context.Context) (_ string, err error) {
	device, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if err != nil {
		return TCG, nil // there is none, or it is not ours
	}
	device.Close()
	dir, err := os.MkdirTemp("", "kvm")
	if err != nil {
		return TCG, fmt.Errorf("try KVM: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	ran, err := tryGuest(ctx, dir, KVM)
	if err != nil {
		return TCG, fmt.Errorf("try KVM: %w", err)
	}
	if !ran {
		return TCG, nil
	}
	return KVM, nil
}

// tryGuest says whether the first guest runs under an accelerator.
func tryGuest(ctx context.Context, dir, accelerator string) (ran bool, err error) {
	image, err := proofBIOS()
	if err != nil {
		return false, err
	}
	bios, socket := filepath.Join(dir, "proof.bin"), filepath.Join(dir, "proof.sock")
	if err := os.WriteFile(bios, image, 0o644); err != nil {
		return false, err
	}
	defer os.Remove(bios)
	l, err := net.Listen("unix", socket)
	if err != nil {
		return false, err
	}
	defer l.Close()
	p, err := startHere(filepath.Join(dir, "proof.log"), []string{"-machine", "q35,accel=" + accelerator, "-cpu", "max", "-m", "64", "-nodefaults",
		"-no-user-config", "-display", "none", "-no-reboot", "-chardev", "socket,id=said,path=" + socket, "-serial", "chardev:said", "-bios", bios})
	if err != nil {
		return false, err
	}
	trial, cancel := context.WithTimeout(ctx, proofWithin)
	defer cancel()
	stop := context.AfterFunc(trial, func() { l.Close(); _ = p.Kill() })
	defer func() {
		stop()
		_ = p.Kill() // what it says is what counts
	}()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		select {
		case <-p.Done():
			l.Close()
		case <-trial.Done():
		}
	}()
	defer func() { cancel(); <-ended }()
	conn, err := l.Accept()
	if err != nil {
		return false, nil // QEMU ended before, or the time is over
	}
	defer conn.Close()
	said := make([]byte, len(proof))
	_, err = io.ReadFull(conn, said)
	return err == nil && string(said) == proof, nil
}
