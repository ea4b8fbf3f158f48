// SPDX-License-Identifier: Apache-2.0

package main

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"sdbox/internal/ident"
	"sdbox/pki/profile"
)

// checkOperator says beforehand what the gateway would only answer with a closed connection: a certificate that has ended, or that is
// not an operator's.
func checkOperator(pair tls.Certificate, caFile string, now time.Time) error {
	leaf := pair.Leaf
	if now.After(leaf.NotAfter) {
		return hint(exitNotAllowed, fmt.Errorf("the operator certificate of %s ended on %s", leaf.Subject.CommonName, leaf.NotAfter.UTC().Format(time.RFC3339)),
			"sdbox-pki issue operator makes a new one")
	}
	if now.Before(leaf.NotBefore) {
		return hint(exitNotAllowed, fmt.Errorf("the operator certificate of %s begins on %s", leaf.Subject.CommonName, leaf.NotBefore.UTC().Format(time.RFC3339)),
			"is this machine's clock right?")
	}
	trust, err := readTrust(caFile)
	if err != nil {
		return err
	}
	if _, err := trust.VerifyOperator(leaf.Raw, now); err != nil {
		return notOperator(leaf.Subject.CommonName, err)
	}
	return nil
}

func notOperator(name string, err error) error {
	return hint(exitNotAllowed, fmt.Errorf("the certificate of %s is not one of this house's operators: %w", name, err),
		"certificate, key and ca are the files of one folder that sdbox-pki issue operator made")
}

// noProtocol is what a gateway's front door answers to whoever does not speak as a box does (RFC 7301, 3.2).
const noProtocol = tls.AlertError(120)

// unanswered tells apart why a gateway could not be asked: nobody is there, somebody else is, or it does not take the certificate.
func unanswered(base string, err error) error {
	at := strings.TrimPrefix(base, "https://")
	var op *net.OpError
	var foreign *tls.CertificateVerificationError
	var plain tls.RecordHeaderError
	switch {
	case errors.As(err, &foreign):
		return hint(exitUnreachable, fmt.Errorf("what answers at %s is not a gateway of this house: %w", at, foreign.Err),
			"is gateway its address, name the name in its certificate, and ca the ca.pem of its house?")
	case errors.As(err, &plain), errors.Is(err, http.ErrSchemeMismatch):
		return hint(exitUnreachable, fmt.Errorf("what answers at %s speaks no TLS", at), "the console's port is 8443 unless gateway.toml says otherwise")
	case errors.As(err, &op) && op.Op == "remote error" && op.Err.Error() == noProtocol.Error(): // crypto/tls has a type of its own for it
		return hint(exitUnreachable, fmt.Errorf("what answers at %s is the front door for boxes, not the console", at), "the console's port is 8443 unless gateway.toml says otherwise")
	case errors.As(err, &op) && op.Op == "remote error":
		return hint(exitNotAllowed, fmt.Errorf("the gateway at %s does not take this operator certificate: %w", at, op.Err),
			"sdbox-pki issue operator makes one that it takes; it knows no other certificates")
	case errors.As(err, &op) && op.Op == "dial", os.IsTimeout(err):
		return hint(exitUnreachable, fmt.Errorf("the gateway at %s does not answer: %w", at, err), "is sdbox-gateway running there, and is gateway its console's address?")
	}
	return hint(exitUnreachable, fmt.Errorf("the gateway at %s cannot be asked: %w", at, err), "is it running, and is the operator certificate one of its house?")
}

// readTrust reads the authorities of a house. Its domain is the one that the first certificate carries.
func readTrust(path string) (*profile.Trust, error) {
	const which = "it is the ca.pem that sdbox-pki writes beside every certificate"
	bundle, err := readFile(path)
	if err != nil {
		return nil, fmt.Errorf("root certificate: %w", err)
	}
	block, _ := pem.Decode(bundle)
	if block == nil {
		return nil, hint(exitUsage, fmt.Errorf("%s: no certificate in it", path), which)
	}
	first, err := x509.ParseCertificate(block.Bytes)
	if err != nil || len(first.Subject.Organization) != 1 {
		return nil, hint(exitUsage, fmt.Errorf("%s: not the authorities of a house", path), which)
	}
	trust, err := profile.ParseTrust(ident.Domain(first.Subject.Organization[0]), bundle)
	if err != nil {
		return nil, hint(exitUsage, fmt.Errorf("%s: %w", path, err), which)
	}
	return trust, nil
}
