// SPDX-License-Identifier: Apache-2.0

package attest

import "errors"

// Reason is why a box was not believed: a closed list for logs and for operators, never for the box's screen. It is an error;
// errors.Is(err, attest.BadSignature) and ReasonOf tell them apart.
type Reason string

// The reasons of Check.
const (
	Malformed      Reason = "malformed"             // a part is too long, or not the structure it is sent as
	OtherAK        Reason = "other-ak"              // quoted by another attestation key than the device certificate's
	BadSignature   Reason = "bad-signature"         // the attestation key did not sign this quote
	NotAQuote      Reason = "not-a-quote"           // signed, but another kind of statement, or not made by a TPM
	OtherRegisters Reason = "other-registers"       // quoted over other registers than asked
	OtherValues    Reason = "other-values"          // the values sent are not those quoted
	OtherLog       Reason = "other-log"             // the event log sent does not give the values quoted
	NotBound       Reason = "not-bound"             // made for something else, which is not known here
	OtherNonce     Reason = "replayed-nonce"        // made for a nonce this box was given before
	OtherDevice    Reason = "other-device-key"      // made for a connection of another device key
	OtherGateway   Reason = "other-gateway"         // made for a connection to another gateway
	OtherTunnelKey Reason = "other-tunnel-key"      // made for another tunnel key
	OtherChannel   Reason = "other-channel"         // made for another connection of the same ends
	OtherPrevious  Reason = "other-previous"        // does not follow the result it must follow
	Restarted      Reason = "restarted"             // the TPM was restarted since the result it follows
	BadCredential  Reason = "credential-not-solved" // the answer to an enrolment challenge is wrong
	NotCertified   Reason = "device-key-not-certified"
	BadEK          Reason = "bad-endorsement-key"
	BadEKCert      Reason = "bad-endorsement-certificate"
	SimulatedTPM   Reason = "simulated-tpm" // outside the lab
)

// Error returns the reason's word.
func (r Reason) Error() string { return string(r) }

// ReasonOf finds the reason in an error of this package.
func ReasonOf(err error) (Reason, bool) {
	var r Reason
	found := errors.As(err, &r)
	return r, found
}
