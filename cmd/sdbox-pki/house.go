// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"text/tabwriter"
	"time"

	"sdbox/internal/ident"
	"sdbox/pki/ca"
	"sdbox/pki/profile"
)

// hintError is an error with the line that says what to do next.
type hintError struct {
	err  error
	hint string
}

func (e *hintError) Error() string { return e.err.Error() }
func (e *hintError) Unwrap() error { return e.err }

func hint(err error, text string) error { return &hintError{err, text} }

// hinted adds what to do next to the failures a person at the desk meets.
func hinted(err error) error {
	if err == nil {
		return nil
	}
	var h *hintError
	switch {
	case errors.As(err, &h):
		return err
	case errors.Is(err, fs.ErrNotExist):
		return hint(err, "--pki names the folder that sdbox-pki init or lend made; --identity the age identity that opens its keys")
	case errors.Is(err, fs.ErrExist):
		return hint(err, "nothing is ever overwritten: name a folder that does not exist")
	}
	return err
}

// authority chooses the folder of authorities.
type authority struct {
	PKI      string `name:"pki" placeholder:"DIR" required:"" help:"Folder that init or lend made."`
	Identity string `placeholder:"FILE" help:"age identity that opens its keys (DIR/identity.txt)."`
}

func (a authority) open(name profile.Issuer) (*ca.Authority, error) {
	authority, err := ca.Open(a.PKI, name, a.Identity)
	return authority, hinted(err)
}

type initCmd struct {
	Dir      string `arg:"" help:"Folder to make; it must not exist."`
	Domain   string `required:"" help:"Trust domain of the house, for example sd.example.org."`
	Identity string `placeholder:"FILE" help:"age identity the keys are encrypted to; made if it is not there (DIR/identity.txt)."`
}

func (c *initCmd) Run(out io.Writer) error {
	domain, err := ident.ParseDomain(c.Domain)
	if err != nil {
		return err
	}
	if err := ca.Init(c.Dir, domain, c.Identity, time.Now()); err != nil {
		return hinted(err)
	}
	identity := c.Identity
	if identity == "" {
		identity = filepath.Join(c.Dir, ca.IdentityFile)
	}
	fmt.Fprintf(out, "%s: root and issuing authorities of domain %s\n", c.Dir, domain)
	fmt.Fprintf(out, "hint: %s opens every key: keep it apart, and name it with --identity\n", identity)
	return nil
}

type lendCmd struct {
	authority
	Name string `arg:"" enum:"devices,cards,gateways,logon,code" help:"devices, for a gateway that enrols boxes."`
	Out  string `required:"" placeholder:"DIR" help:"Folder to make; it must not exist."`
}

func (c *lendCmd) Run(out io.Writer) error {
	if err := ca.Lend(c.PKI, profile.Issuer(c.Name), c.Identity, c.Out); err != nil {
		return hinted(err)
	}
	fmt.Fprintf(out, "%s: authority %s, opened by %s\n", c.Out, c.Name, filepath.Join(c.Out, ca.IdentityFile))
	return nil
}

type showCmd struct {
	PKI         string `name:"pki" arg:"" help:"Folder that init or lend made."`
	Certificate string `placeholder:"FILE" help:"Say whose this certificate is instead, and whether it holds."`
}

func (c *showCmd) Run(out io.Writer) error {
	domain, list, err := ca.Show(c.PKI)
	if err != nil {
		return hinted(err)
	}
	if c.Certificate != "" {
		return c.certificate(out)
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "domain\t%s\n", domain)
	for _, a := range list {
		fmt.Fprintf(w, "%s\tuntil %s\t%s\n", a.Name, a.Certificate.NotAfter.Format(time.DateOnly), a.Certificate.PublicKeyAlgorithm)
	}
	return w.Flush()
}

// certificate tries every check: a certificate passes at most one.
func (c *showCmd) certificate(out io.Writer) error {
	trust, err := ca.LoadTrust(c.PKI)
	if err != nil {
		return hinted(err)
	}
	text, err := readSmall(c.Certificate)
	if err != nil {
		return err
	}
	block, _ := pem.Decode(text)
	if block == nil || block.Type != "CERTIFICATE" {
		return hint(fmt.Errorf("%s: no certificate", c.Certificate), "want a PEM file that begins with BEGIN CERTIFICATE")
	}
	said, err := describe(trust, block.Bytes, time.Now())
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(out, said)
	return err
}

// describe says whose certificate it is. Of the checks that fail, the one that says more than "another kind" is the answer.
func describe(trust *profile.Trust, der []byte, now time.Time) (said string, err error) {
	for _, try := range []func() (string, error){
		func() (string, error) {
			p, err := trust.VerifyPerson(der, now)
			return fmt.Sprintf("person %s, card %s, by %s, until %s", p.Subject, p.GUID, p.Method, p.NotAfter.Format(time.DateOnly)), err
		},
		func() (string, error) {
			p, err := trust.VerifyPresence(der, now)
			return fmt.Sprintf("presence of card %s, until %s", p.GUID, p.NotAfter.Format(time.DateOnly)), err
		},
		func() (string, error) {
			b, err := trust.VerifyBox(der, now)
			return fmt.Sprintf("box %s, attestation key %x, until %s", b.Serial, b.AKName, b.NotAfter.Format(time.DateOnly)), err
		},
		func() (string, error) { name, err := trust.VerifyOperator(der, now); return "operator " + name, err },
		func() (string, error) { name, err := trust.VerifyGateway(der, now); return "gateway " + name, err },
		func() (string, error) { name, err := trust.VerifyBubble(der, now); return "bubble " + name, err },
	} {
		said, failed := try()
		if failed == nil {
			return said, nil
		}
		if err == nil || (errors.Is(err, profile.ErrProfile) && !errors.Is(failed, profile.ErrProfile)) {
			err = failed
		}
	}
	return "", err
}

// readSmall reads a file of at most 64 kB.
func readSmall(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close() // only read from
	data, err := io.ReadAll(io.LimitReader(f, 64<<10+1))
	if err == nil && len(data) > 64<<10 {
		err = fmt.Errorf("%s: more than 64 kB", name)
	}
	return data, err
}
