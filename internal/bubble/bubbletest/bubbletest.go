// SPDX-License-Identifier: Apache-2.0

// Package bubbletest runs a real bubble for tests: certificates of a CA of its own, a bubble.Server on loopback, desktops by Xvnc.
package bubbletest

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"sdbox/internal/bubble"
	"sdbox/internal/ident"
	"sdbox/internal/seal"

	"github.com/stretchr/testify/require"
)

// The names of the one bubble and its gateway.
const (
	Bubble  = "epi.bubbles.lab"
	Gateway = "gw1.lab"
)

// CA issues certificates for tests.
type CA struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
}

// NewCA makes an authority.
func NewCA(t testing.TB) *CA {
	ca := &CA{}
	ca.key, ca.cert = ca.sign(t, &x509.Certificate{Subject: pkix.Name{CommonName: "Gateways CA"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign})
	return ca
}

// Issue makes a key and a certificate with this DNS name for both ends of TLS.
func (ca *CA) Issue(t testing.TB, name string) tls.Certificate {
	key, cert := ca.sign(t, &x509.Certificate{Subject: pkix.Name{CommonName: name}, DNSNames: []string{name}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}})
	return tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key, Leaf: cert}
}

// Roots is the pool of this authority alone.
func (ca *CA) Roots() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(ca.cert)
	return pool
}

func (ca *CA) sign(t testing.TB, template *x509.Certificate) (*ecdsa.PrivateKey, *x509.Certificate) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template.SerialNumber = big.NewInt(time.Now().UnixNano())
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	parent, signer := ca.cert, ca.key
	if parent == nil {
		parent, signer = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	require.NoError(t, err)
	cert, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	return key, cert
}

// House is a bubble with accounts "amina" and "bruno" and a gateway that may open it.
type House struct {
	CA      *CA
	Own     tls.Certificate // the gateway's
	Signer  *seal.Signer    // of the gateway's key
	Config  bubble.Config
	Address string // set by Serve
}

// New makes a house whose desktops run this shell command. It is not serving yet.
func New(t testing.TB, session string) *House {
	for _, program := range []string{"Xvnc", "xkbcomp", "setxkbmap"} {
		_, err := exec.LookPath(program)
		require.NoError(t, err, "install the packages of debian-packages.txt")
	}
	dir, err := os.MkdirTemp("", "sdb") // short: a Unix socket's path is at most 107 bytes
	require.NoError(t, err)
	require.NoError(t, os.Chmod(dir, 0o711))
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	h := &House{CA: NewCA(t)}
	h.Own = h.CA.Issue(t, Gateway)
	h.Signer = Signer(t, h.Own)
	h.Config = bubble.Config{
		Domain: ident.Lab, Name: "epi", State: filepath.Join(dir, "state"), Run: filepath.Join(dir, "run"),
		Certificate: h.CA.Issue(t, Bubble), Roots: h.CA.Roots(), Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
	}
	names := []string{"amina", "bruno"}
	if os.Geteuid() != 0 {
		names = names[:1]
	}
	for i, name := range names {
		uid := uint32(20011 + i)
		if os.Geteuid() != 0 {
			uid = uint32(os.Geteuid())
		}
		h.Config.Accounts = append(h.Config.Accounts, bubble.Account{Name: name, UID: uid, Home: filepath.Join(dir, "home", name), Session: session})
	}
	return h
}

// Signer seals with the key of a certificate.
func Signer(t testing.TB, own tls.Certificate) *seal.Signer {
	key, ok := own.PrivateKey.(*ecdsa.PrivateKey)
	require.True(t, ok)
	signer, err := seal.NewSigner(key, Gateway)
	require.NoError(t, err)
	return signer
}

// Serve runs the bubble until stop is called or the test ends; its desktops end with it. Crash ends the server as kill -9 does:
// the desktops go on.
func (h *House) Serve(t testing.TB) (stop, crash func()) {
	server, err := bubble.New(h.Config)
	require.NoError(t, err)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	h.Address = l.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- server.Serve(ctx, l) }()
	ended := false
	end := func(how func()) func() {
		return func() {
			if ended {
				return
			}
			ended = true
			how()
			if err := <-served; ctx.Err() != nil {
				require.NoError(t, err)
			}
		}
	}
	t.Cleanup(end(cancel))
	return end(cancel), end(func() { l.Close() })
}

// TLS is the gateway's way to the bubble.
func (h *House) TLS() *tls.Config { return bubble.ClientTLS(h.Own, h.CA.Roots(), Bubble) }

// Claims are good ones for the account, in a session of their own.
func (h *House) Claims(account string) bubble.Claims {
	return bubble.Claims{Account: account, Session: ident.NewID(), Epoch: 1, Purpose: bubble.PurposeDesktop, GatewayCertificate: bubble.CertificateHash(h.Own.Leaf)}
}

// Token is a good token for the account, in a session of its own.
func (h *House) Token(t testing.TB, account string) []byte {
	token, err := bubble.NewToken(h.Signer, Bubble, h.Claims(account))
	require.NoError(t, err)
	return token
}

// Desktop returns the process and the X display of a running desktop.
func (h *House) Desktop(t testing.TB, account string) (pid, display int) {
	text, err := os.ReadFile(filepath.Join(h.Config.Run, account+".pid"))
	require.NoError(t, err)
	var began string
	_, err = fmt.Sscanf(string(text), "%d %s %d", &pid, &began, &display)
	require.NoError(t, err)
	return pid, display
}

// X prepares an X program that sees the account's desktop as its owner does.
func (h *House) X(t testing.TB, account string, name string, args ...string) *exec.Cmd {
	_, display := h.Desktop(t, account)
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Env = append(os.Environ(), fmt.Sprintf("DISPLAY=:%d", display), "XAUTHORITY="+filepath.Join(h.Config.Run, account, "Xauthority"))
	return cmd
}
