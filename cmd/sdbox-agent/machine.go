// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"slices"

	"sdbox/firmware/eventlog"
	"sdbox/firmware/reference"
	"sdbox/internal/attest"
	"sdbox/internal/tpm"
)

// useError is a mistake in the command line, the configuration or the machine, with the next thing to try.
type useError struct {
	err  error
	hint string
}

func (e *useError) Error() string { return e.err.Error() }
func (e *useError) Unwrap() error { return e.err }

// What to do next about the parts of a box.
const (
	hintConfig = "change the file and look again with sdbox-agent config check"
	hintRoot   = "root names the file root/cert.pem of the folder that sdbox-pki init made"
	hintTPM    = "hardware.tpm: a machine's own is /dev/tpmrm0, and Linux must have found it; in the domain lab it may be the socket of swtpm"
	hintScreen = "hardware.screen: file: and a path in a folder that this program may write to"
	hintKeys   = "hardware.keys: evdev, or unix: and the path of a socket in the domain lab"
)

// check reads what the agent would read, and touches no hardware.
func check(_ context.Context, config string, o output) error {
	c, err := readConfig(config)
	if err != nil {
		return err
	}
	if _, err := readRoot(c.Root); err != nil {
		return err
	}
	_, err = fmt.Fprintf(o.out, "%s is good: a box of %s, by way of %s\n", config, c.Domain, c.GatewayName)
	return err
}

// machine asks the TPM which machine this is and what it has measured since it was switched on. Of the configuration only hardware.tpm
// and hardware.eventlog are used.
func machine(_ context.Context, config string, o output) (err error) {
	c, err := readConfig(config)
	if err != nil {
		return err
	}
	chip, err := tpm.Open(c.Hardware.TPM)
	if err != nil {
		return &useError{err, hintTPM}
	}
	defer func() { err = errors.Join(err, chip.Close()) }()
	ek, err := chip.EndorsementKey()
	if err != nil {
		return err
	}
	hash, err := attest.EKHash(ek.Raw)
	if err != nil {
		return err
	}
	registers, err := chip.ReadPCRs(attest.Registers())
	if err != nil {
		return err
	}
	fmt.Fprintf(o.out, "ek %x\n", hash)
	for _, r := range registers {
		fmt.Fprintf(o.out, "pcr %d %x\n", r.Index, r.Digest)
	}
	return printEvents(c.Hardware.Log, registers, o)
}

// printEvents prints what the firmware measured, without what differs between machines of a model: by the
// others a model is known.
// A log that does not give the registers explains nothing: it is left out.
func printEvents(path string, registers []tpm.PCR, o output) error {
	log, err := eventlog.Read(path)
	if err != nil {
		fmt.Fprintf(o.log, "hint: registers without their events: %v\n", err)
		return nil
	}
	values := log.Replay()
	for _, r := range registers {
		if slices.Contains(reference.ByEvents(), r.Index) && values[r.Index] != r.Digest {
			fmt.Fprintf(o.log, "hint: registers without their events: %s is another boot's, register %d would be %x by it\n", path, r.Index, values[r.Index])
			return nil
		}
	}
	for _, register := range reference.ByEvents() {
		for _, e := range log.Of(register) {
			if !e.MayVary() {
				fmt.Fprintf(o.out, "%s %s\n", reference.EventLine(register, reference.Event{Type: e.Type, Digest: e.Digest}), e)
			}
		}
	}
	return nil
}

// readRoot reads the certificate that the box trusts.
func readRoot(path string) (*x509.CertPool, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, &useError{fmt.Errorf("root certificate: %w", err), hintRoot}
	}
	root := x509.NewCertPool()
	if !root.AppendCertsFromPEM(text) {
		return nil, &useError{fmt.Errorf("root certificate %s: no PEM certificate in it", path), hintRoot}
	}
	return root, nil
}
