// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"sdbox/cmd/internal/settings"
	"sdbox/internal/bubble"
	"sdbox/internal/ident"
	"sdbox/internal/seal"
	"sdbox/pki/ca"
	"sdbox/pki/profile"

	"github.com/stretchr/testify/require"
)

// house issues real certificates into tls folders.
type house struct {
	t         *testing.T
	dir       string
	authority *ca.Authority
}

func newHouse(t *testing.T) house {
	dir, err := os.MkdirTemp("", "sdc") // short, and open to the accounts: it holds a socket
	require.NoError(t, err)
	require.NoError(t, os.Chmod(dir, 0o711))
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	require.NoError(t, ca.Init(filepath.Join(dir, "pki"), ident.Lab, "", time.Now()))
	a, err := ca.Open(filepath.Join(dir, "pki"), profile.Gateways, filepath.Join(dir, "pki", ca.IdentityFile))
	require.NoError(t, err)
	return house{t, dir, a}
}

func (h house) issue(folder string, p func(crypto.PublicKey) profile.Profile) profile.Identity {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(h.t, err)
	issued, err := h.authority.Issue(p(key.Public()))
	require.NoError(h.t, err)
	require.NoError(h.t, h.authority.WriteIdentity(filepath.Join(h.dir, folder), issued, key))
	id, err := profile.LoadIdentity(filepath.Join(h.dir, folder), ident.Lab)
	require.NoError(h.t, err)
	return id
}

func (h house) write(text string) string {
	path := filepath.Join(h.dir, "bubble.toml")
	require.NoError(h.t, os.WriteFile(path, []byte(text), 0o600))
	return path
}

func (h house) config() string {
	uid := 20021
	if os.Geteuid() != 0 {
		uid = os.Geteuid()
	}
	return fmt.Sprintf(`
domain = "lab"
name = "epi"
listen = "127.0.0.1:0"
state = "state"
run = "run"
tls = "epi"
session = "exec sleep 1000"
layouts = ["fr", "us"]
max_width = 1920
max_height = 1080

[[accounts]]
name = "amina"
uid = %d
home = %q
`, uid, filepath.Join(h.dir, "home", "amina"))
}

func bubbleProfile(k crypto.PublicKey) profile.Profile  { return profile.Bubble{Name: "epi", Key: k} }
func gatewayProfile(k crypto.PublicKey) profile.Profile { return profile.Gateway{Name: "gw1", Key: k} }

// TestProgramServesADesktopAndEndsItOnSignal runs the program as its main does.
func TestProgramServesADesktopAndEndsItOnSignal(t *testing.T) {
	h := newHouse(t)
	h.issue("epi", bubbleProfile)
	gateway := h.issue("gw1", gatewayProfile)
	other := h.issue("econ", func(k crypto.PublicKey) profile.Profile { return profile.Bubble{Name: "econ", Key: k} })
	path := h.write(h.config())
	var said bytes.Buffer
	require.NoError(t, run(t.Context(), []string{"config", "check", "--config", path}, &said, io.Discard))
	require.Contains(t, said.String(), "is good: bubble epi with 1 accounts")

	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	logs, writer := io.Pipe()
	done := make(chan error, 1)
	go func() { done <- run(ctx, []string{"--config", path}, io.Discard, writer); writer.Close() }()
	var ready struct{ Msg, Listen, Bubble string }
	lines := json.NewDecoder(logs)
	require.NoError(t, lines.Decode(&ready))
	require.Equal(t, "ready", ready.Msg)
	require.Equal(t, "epi", ready.Bubble)
	drained := make(chan struct{})
	go func() { defer close(drained); io.Copy(io.Discard, io.MultiReader(lines.Buffered(), logs)) }()

	name := ident.Lab.Bubble("epi")
	conn, err := bubble.Dial(t.Context(), ready.Listen, bubble.ClientTLS(gateway.TLS, gateway.Trust.Roots(), name))
	require.NoError(t, err)
	signer, err := seal.NewSigner(gateway.TLS.PrivateKey.(crypto.Signer), ident.Lab.Gateway("gw1"))
	require.NoError(t, err)
	token, err := bubble.NewToken(signer, name, bubble.Claims{Account: "amina", Session: ident.NewID(), Epoch: 1,
		Purpose: bubble.PurposeDesktop, GatewayCertificate: bubble.CertificateHash(gateway.TLS.Leaf)})
	require.NoError(t, err)
	screen, err := conn.Open(t.Context(), token, 640, 480, "fr")
	require.NoError(t, err)
	version := make([]byte, 4)
	_, err = io.ReadFull(screen, version)
	require.NoError(t, err)
	require.Equal(t, "RFB ", string(version))

	stranger, err := bubble.Dial(t.Context(), ready.Listen, bubble.ClientTLS(other.TLS, other.Trust.Roots(), name))
	if err == nil {
		_, err = stranger.Running(t.Context())
		stranger.Close()
	}
	require.Error(t, err, "another bubble is not a gateway")

	stop()
	require.NoError(t, <-done)
	<-drained
	_, err = io.Copy(io.Discard, screen)
	require.NotErrorIs(t, err, os.ErrDeadlineExceeded)
	screen.Close()
	require.NoFileExists(t, filepath.Join(h.dir, "run", "amina.pid"), "the desktop has ended")
}

func TestConfigurationThatCannotWorkIsNamed(t *testing.T) {
	h := newHouse(t)
	h.issue("epi", bubbleProfile)
	for want, text := range map[string]string{
		"means nothing":  h.config() + "colour = \"red\"\n",
		"uid":            "domain = \"lab\"\nname = \"epi\"\ntls = \"epi\"\nsession = \"x\"\n[[accounts]]\nname = \"amina\"\nuid = 0\n",
		"\"domain\"":     "name = \"epi\"\n",
		"cert.pem":       "domain = \"lab\"\nname = \"epi\"\ntls = \"nowhere\"\n",
		"no session":     "domain = \"lab\"\nname = \"epi\"\ntls = \"epi\"\n[[accounts]]\nname = \"amina\"\nuid = 20021\n",
		"0 accounts":     "domain = \"lab\"\nname = \"epi\"\ntls = \"epi\"\n",
		"configuration ": "domain = [",
	} {
		for _, command := range [][]string{{"config", "check"}, {"run"}} {
			err := run(t.Context(), append(command, "--config", h.write(text)), io.Discard, io.Discard)
			require.ErrorContains(t, err, want)
		}
	}
	err := run(t.Context(), []string{"--config", filepath.Join(h.dir, "missing.toml")}, io.Discard, io.Discard)
	require.ErrorIs(t, err, os.ErrNotExist)
}

func FuzzConfig(f *testing.F) {
	f.Add([]byte(house{t: nil, dir: "/h"}.config()))
	f.Add([]byte("domain = \"lab\"\nrun = \"/run\"\n"))
	f.Add([]byte("domian = \"lab\"\n"))
	f.Add([]byte("domain = "))
	f.Add(make([]byte, settings.Max+1))
	f.Fuzz(func(t *testing.T, text []byte) {
		file := filepath.Join(t.TempDir(), "bubble.toml")
		require.NoError(t, os.WriteFile(file, text, 0o600))
		if c, err := readConfig(file); err == nil {
			require.True(t, filepath.IsAbs(c.State) && filepath.IsAbs(c.Run) && filepath.IsAbs(c.TLS))
		}
	})
}
