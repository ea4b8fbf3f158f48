// SPDX-License-Identifier: Apache-2.0

package tpm_test

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"errors"
	"io"
	"math/big"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"sdbox/internal/tpm"
	"sdbox/internal/tpm/tpmsim"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
	"github.com/google/go-tpm/tpm2/transport/linuxudstpm"
	"github.com/stretchr/testify/require"
)

// machine is one simulated machine: its TPM can be switched off and on again.
type machine struct {
	cfg tpmsim.Config
	sim *tpmsim.Sim
}

func newMachine(t testing.TB) *machine {
	t.Helper()
	dir := t.TempDir()
	m := &machine{cfg: tpmsim.Config{Dir: dir, Socket: filepath.Join(dir, "s")}}
	m.on(t)
	t.Cleanup(func() { require.NoError(t, m.sim.Stop()) })
	return m
}

func (m *machine) on(t testing.TB) {
	t.Helper()
	var err error
	m.sim, err = tpmsim.Start(t.Context(), m.cfg)
	require.NoError(t, err)
}

func (m *machine) losePower(t testing.TB) {
	t.Helper()
	require.NoError(t, m.sim.Stop())
	m.on(t)
}

func (m *machine) open(t testing.TB) *tpm.TPM {
	t.Helper()
	dev, err := tpm.Open(m.sim.Spec())
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, dev.Close()) })
	return dev
}

// requireEmpty is the invariant of the package: nothing of ours is left in the TPM's few places.
func (m *machine) requireEmpty(t *testing.T) {
	t.Helper()
	raw, err := linuxudstpm.Open(m.cfg.Socket)
	require.NoError(t, err)
	defer raw.Close()
	for _, first := range []uint32{0x80000000, 0x02000000, 0x03000000} { // transient objects, loaded and saved sessions
		rsp, err := tpm2.GetCapability{Capability: tpm2.TPMCapHandles, Property: first, PropertyCount: 8}.Execute(raw)
		require.NoError(t, err)
		handles, err := rsp.CapabilityData.Data.Handles()
		require.NoError(t, err)
		require.Empty(t, handles.Handle, "handles from %#x on", first)
	}
}

func selfSigned(t testing.TB, key crypto.Signer, serial int64, padding int) []byte {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serial),
		Subject:      pkix.Name{CommonName: strings.Repeat("b", padding)},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(time.Hour),
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
		DNSNames:     []string{"gw1.lab"},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	require.NoError(t, err)
	return der
}

func deviceKey(t testing.TB, dev *tpm.TPM) crypto.Signer {
	t.Helper()
	require.NoError(t, dev.EnsureDeviceKey())
	key, err := dev.DeviceKey()
	require.NoError(t, err)
	return key
}

func TestDeviceKeyServesMutualTLS13(t *testing.T) {
	m := newMachine(t)
	dev := m.open(t)
	_, err := dev.DeviceKey()
	require.ErrorIs(t, err, tpm.ErrNoDeviceKey)
	key := deviceKey(t, dev)
	require.NoError(t, dev.StoreCertificate(selfSigned(t, key, 7, 10)))
	der, err := dev.Certificate()
	require.NoError(t, err)
	cert := tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
	leaf, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	pool := x509.NewCertPool()
	pool.AddCert(leaf)

	ours, theirs := net.Pipe()
	for _, end := range []net.Conn{ours, theirs} {
		require.NoError(t, end.SetDeadline(time.Now().Add(20*time.Second)))
	}
	box := tls.Client(ours, &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{cert}, RootCAs: pool, ServerName: "gw1.lab"})
	gateway := tls.Server(theirs, &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{cert}, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert})
	served := make(chan error, 1)
	go func() { served <- gateway.HandshakeContext(t.Context()) }()
	require.NoError(t, box.HandshakeContext(t.Context()))
	drained := make(chan error, 1)
	go func() { _, err := box.Read(make([]byte, 1)); drained <- err }() // takes the gateway's alert or session ticket
	require.NoError(t, <-served)
	state := gateway.ConnectionState()
	require.Equal(t, uint16(tls.VersionTLS13), state.Version)
	require.Equal(t, tls.X25519MLKEM768, state.CurveID)
	require.Equal(t, der, state.PeerCertificates[0].Raw)
	require.NoError(t, theirs.Close())
	require.ErrorIs(t, <-drained, io.EOF)
	require.NoError(t, ours.Close())
	m.requireEmpty(t)
}

func TestDeviceKeySignsSHA256DigestsOnly(t *testing.T) {
	m := newMachine(t)
	key := deviceKey(t, m.open(t))
	digest := sha256.Sum256([]byte("x"))
	for _, bad := range []struct {
		digest []byte
		opts   crypto.SignerOpts
	}{{digest[:], crypto.SHA384}, {digest[:31], crypto.SHA256}, {nil, crypto.SHA256}, {digest[:], crypto.Hash(0)}, {digest[:], nil}} {
		_, err := key.Sign(rand.Reader, bad.digest, bad.opts)
		require.ErrorContains(t, err, "SHA-256 digests only")
	}
}

func TestKeysAndCertificateOutliveSuddenPowerLoss(t *testing.T) {
	m := newMachine(t)
	dev := m.open(t)
	der := selfSigned(t, deviceKey(t, dev), 1, 10)
	require.NoError(t, dev.StoreCertificate(der))
	ek, err := dev.EndorsementKey()
	require.NoError(t, err)
	ak, err := dev.AttestationKey()
	require.NoError(t, err)
	device, err := dev.DevicePublic()
	require.NoError(t, err)
	require.NoError(t, dev.Extend(4, sha256.Sum256([]byte("image"))))

	// Each use before a loss of power would count as a failed password if the keys were not exempt: the TPM locks after a few.
	for range 8 {
		_, err := dev.Quote([]uint8{0, 4}, [32]byte{})
		require.NoError(t, err)
		require.Equal(t, der, selfSignedAgain(t, dev, der))
		m.losePower(t)
	}
	again, err := dev.EndorsementKey()
	require.NoError(t, err)
	require.Equal(t, ek, again)
	again, err = dev.AttestationKey()
	require.NoError(t, err)
	require.Equal(t, ak, again)
	again, err = dev.DevicePublic()
	require.NoError(t, err)
	require.Equal(t, device, again)
	values, err := dev.ReadPCRs([]uint8{4})
	require.NoError(t, err)
	require.Equal(t, [32]byte{}, values[0].Digest, "a power cycle zeroes the registers")
}

// selfSignedAgain uses the device key and the certificate as each connection does.
func selfSignedAgain(t *testing.T, dev *tpm.TPM, der []byte) []byte {
	t.Helper()
	digest := sha256.Sum256(der)
	_, err := deviceKey(t, dev).Sign(rand.Reader, digest[:], crypto.SHA256)
	require.NoError(t, err)
	stored, err := dev.Certificate()
	require.NoError(t, err)
	return stored
}

func TestFailedOperationsLeaveNothingInTheTPM(t *testing.T) {
	m := newMachine(t)
	dev := m.open(t)
	for range 5 { // more than the TPM has sessions, and keys
		_, err := dev.ActivateCredential(make([]byte, 68), make([]byte, 256))
		require.Error(t, err)
		_, err = dev.ActivateCredential(nil, nil)
		require.Error(t, err)
		_, _, err = dev.CertifyDeviceKey(nil)
		require.ErrorIs(t, err, tpm.ErrNoDeviceKey)
		_, err = dev.Quote([]uint8{3, 1}, [32]byte{})
		require.ErrorContains(t, err, "rising order")
	}
	m.requireEmpty(t)
	require.NoError(t, dev.Close())
	_, err := dev.ReadPCRs([]uint8{0})
	require.ErrorIs(t, err, tpm.ErrClosed)
}

func TestManyGoroutinesShareOneTPM(t *testing.T) {
	m := newMachine(t)
	dev := m.open(t)
	key := deviceKey(t, dev)
	var wg sync.WaitGroup
	errs := make(chan error, 32)
	for range 8 {
		wg.Go(func() {
			digest := sha256.Sum256([]byte("x"))
			_, err := key.Sign(rand.Reader, digest[:], crypto.SHA256)
			errs <- err
			_, err = dev.Quote([]uint8{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11}, digest)
			errs <- err
			_, _, err = dev.CertifyDeviceKey(nil)
			errs <- err
			_, err = dev.EKCertificate()
			errs <- err
		})
	}
	wg.Wait()
	close(errs)
	for err := range errs {
		require.NoError(t, err)
	}
	m.requireEmpty(t)
}

func TestAnotherKeyInTheDeviceKeysPlaceIsRefused(t *testing.T) {
	m := newMachine(t)
	raw, err := linuxudstpm.Open(m.cfg.Socket)
	require.NoError(t, err)
	defer raw.Close()
	owner := tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)}
	srk, err := tpm2.CreatePrimary{PrimaryHandle: owner, InPublic: tpm2.New2B(tpm2.ECCSRKTemplate)}.Execute(raw)
	require.NoError(t, err)
	_, err = tpm2.EvictControl{Auth: owner, ObjectHandle: &tpm2.NamedHandle{Handle: srk.ObjectHandle, Name: srk.Name}, PersistentHandle: tpm.DeviceKeyHandle}.Execute(raw)
	require.NoError(t, err)
	_, err = tpm2.FlushContext{FlushHandle: srk.ObjectHandle}.Execute(raw)
	require.NoError(t, err)
	require.ErrorContains(t, m.open(t).EnsureDeviceKey(), "another key is in its place")
	m.requireEmpty(t)
}

func TestCertificateTooLongOrNotDERIsRefused(t *testing.T) {
	m := newMachine(t)
	dev := m.open(t)
	_, err := dev.Certificate()
	require.ErrorIs(t, err, tpm.ErrNoCertificate)
	der := selfSigned(t, deviceKey(t, dev), 1, 10)
	for _, bad := range [][]byte{nil, {0x30}, append(bytes.Clone(der), 0), der[:len(der)-1], append([]byte{0x30, 0x82, 0x08, 0x00}, make([]byte, 2048)...)} {
		require.Error(t, dev.StoreCertificate(bad))
	}
	longest := append([]byte{0x30, 0x82, 0x05, 0xdc}, make([]byte, tpm.MaxCertificate-4)...)
	require.NoError(t, dev.StoreCertificate(longest))
	stored, err := dev.Certificate()
	require.NoError(t, err)
	require.Equal(t, longest, stored)
}

// faulty loses the n-th command, before or after the TPM has done it.
type faulty struct {
	transport.TPMCloser
	left  int
	after bool
	hook  func(command []byte)
}

var errPower = errors.New("power lost")

func (f *faulty) Send(command []byte) ([]byte, error) {
	if f.hook != nil {
		f.hook(command)
	}
	f.left--
	if f.left == 0 && !f.after {
		return nil, errPower
	}
	response, err := f.TPMCloser.Send(command)
	if f.left == 0 {
		return nil, errPower
	}
	return response, err
}

func TestCertificateIsWholeOrAbsentWhereverPowerFails(t *testing.T) {
	m := newMachine(t)
	dev := m.open(t)
	key := deviceKey(t, dev)
	older, newer := selfSigned(t, key, 1, 400), selfSigned(t, key, 2, 400)
	require.Greater(t, len(newer), 2*512, "a certificate takes several writes")
	var kept, lost, stored int
	for n := 1; n <= 8; n++ { // one look at the index, then a write and a look for each of three parts
		for _, after := range []bool{false, true} {
			require.NoError(t, dev.StoreCertificate(older))
			raw, err := linuxudstpm.Open(m.cfg.Socket)
			require.NoError(t, err)
			weak := &faulty{TPMCloser: raw}
			dying, err := tpm.New(weak)
			require.NoError(t, err)
			weak.left, weak.after = n, after
			failed := dying.StoreCertificate(newer)
			require.NoError(t, dying.Close())
			got, err := dev.Certificate()
			switch {
			case errors.Is(err, tpm.ErrNoCertificate):
				require.ErrorIs(t, failed, errPower)
				lost++
			case bytes.Equal(got, older):
				require.ErrorIs(t, failed, errPower)
				kept++
			default:
				require.NoError(t, err)
				require.Equal(t, newer, got)
				stored++
			}
			m.requireEmpty(t)
		}
	}
	require.NotZero(t, kept)
	require.NotZero(t, lost)
	require.NotZero(t, stored)
}

func TestQuoteNeverTellsOtherValuesThanItSigns(t *testing.T) {
	m := newMachine(t)
	dev := m.open(t)
	raw, err := linuxudstpm.Open(m.cfg.Socket)
	require.NoError(t, err)
	moves := 1
	busy := &faulty{TPMCloser: raw, hook: func(command []byte) {
		if binary.BigEndian.Uint32(command[6:]) == uint32(tpm2.TPMCCQuote) && moves > 0 {
			moves--
			require.NoError(t, dev.Extend(9, [32]byte{1}))
		}
	}}
	moving, err := tpm.New(busy)
	require.NoError(t, err)
	q, err := moving.Quote([]uint8{8, 9}, [32]byte{})
	require.NoError(t, err)
	values, err := dev.ReadPCRs([]uint8{8, 9})
	require.NoError(t, err)
	require.Equal(t, values, q.PCRs)

	moves = 1000
	_, err = moving.Quote([]uint8{8, 9}, [32]byte{})
	require.ErrorContains(t, err, "changed meanwhile")
	require.NoError(t, moving.Close())
	m.requireEmpty(t)
}

func TestHostileTPMResponsesAreBounded(t *testing.T) {
	header := func(size uint32) []byte {
		return binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32([]byte{0x80, 0x01}, size), 0)
	}
	for name, response := range map[string][]byte{
		"nothing":   {},
		"too short": header(9),
		"huge":      header(0xffffffff),
		"cut":       append(header(64), 1, 2, 3),
		"empty":     header(10),
		"nonsense":  append(header(40), bytes.Repeat([]byte{0xff}, 30)...),
		"no banks":  append(header(19), 0, 0, 0, 0, 5, 0, 0, 0, 0),
		"an error":  {0x80, 0x01, 0, 0, 0, 10, 0, 0, 1, 1},
		"not ready": {0x80, 0x01, 0, 0, 0, 10, 0, 0, 9, 0x22},
	} {
		path := filepath.Join(t.TempDir(), "s")
		listener, err := net.Listen("unix", path)
		require.NoError(t, err)
		served := make(chan error, 1)
		go func() {
			for {
				conn, err := listener.Accept()
				if errors.Is(err, net.ErrClosed) {
					served <- nil
					return
				}
				if err == nil {
					_, err = io.ReadFull(conn, make([]byte, 22))
					_, werr := conn.Write(response)
					err = errors.Join(err, werr, conn.Close())
				}
				if err != nil {
					served <- err
					return
				}
			}
		}()
		_, err = tpm.Open("unix:" + path)
		require.Error(t, err, name)
		require.NoError(t, listener.Close())
		require.NoError(t, <-served, name)
	}
	for _, bad := range []string{"", "tpm0", "/dev/null/x", "/etc/hostname", "unix:", "unix:/nowhere/s"} {
		_, err := tpm.Open(bad)
		require.Error(t, err, bad)
	}
}
