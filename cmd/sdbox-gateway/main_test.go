// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sdbox/cmd/internal/settings"
	"sdbox/firmware/reference"
	"sdbox/pki/ca"
	"sdbox/pki/profile"

	"github.com/stretchr/testify/require"
)

func command(ctx context.Context, args ...string) (code int, out, errs string) {
	var o, e bytes.Buffer
	code = run(ctx, args, &o, &e)
	return code, o.String(), e.String()
}

// What init writes needs only the release key, the certificate and the authority it asks for; then it is good, and runs.
func TestInitThenCheckThenRun(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "gw")
	code, out, errs := command(t.Context(), "init", dir, "--domain", "lab", "--at", "127.0.0.1:34443")
	require.Zero(t, code, errs)
	require.Contains(t, out, "sdbox-pki issue gateway gw1")
	file := filepath.Join(dir, "gateway.toml")
	code, _, errs = command(t.Context(), "config", "check", file)
	require.Equal(t, 2, code)
	require.Contains(t, errs, "release key")
	require.Contains(t, errs, "hint:")
	code, _, errs = command(t.Context(), "init", dir, "--domain", "lab", "--at", "127.0.0.1:34443")
	require.Equal(t, 1, code)
	require.Contains(t, errs, "nothing is written over it")

	_, public, err := reference.GenerateKey("release-1.lab")
	require.NoError(t, err)
	raw, err := os.ReadFile(file)
	require.NoError(t, err)
	text := strings.NewReplacer(`references = []`, `references = ["`+public+`"]`, `":443"`, `"127.0.0.1:34443"`, `":8443"`, `"127.0.0.1:34444"`, "127.0.0.1:9090", "127.0.0.1:34445").Replace(string(raw))
	require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
	code, _, errs = command(t.Context(), "config", "check", file)
	require.Equal(t, 2, code)
	require.Contains(t, errs, "tls")
	settle(t, filepath.Join(dir, "state"))
	code, out, errs = command(t.Context(), "config", "check", file)
	require.Zero(t, code, errs)
	require.Contains(t, out, "Gateway gw1.lab")

	told, tell := context.WithCancel(t.Context())
	go func() {
		defer tell()
		for range 400 { // up to 20 s; then it is told to stop whether it came up or not
			if resp, err := http.Get("http://127.0.0.1:34445/readyz"); err == nil {
				resp.Body.Close()
				return
			}
			<-time.After(50 * time.Millisecond)
		}
	}()
	code, _, errs = command(told, "run", "--config", file)
	require.Zero(t, code, errs)

	copied := filepath.Join(t.TempDir(), "b")
	code, out, errs = command(t.Context(), "backup", copied, "--config", file)
	require.Zero(t, code, errs)
	require.Contains(t, out, "audit rows, checked")
	code, _, errs = command(t.Context(), "backup", copied, "--config", file)
	require.Equal(t, 2, code, errs)
	code, out, errs = command(t.Context(), "restore", copied, "--config", file)
	require.Zero(t, code, errs)
	require.Contains(t, out, "replaced-")
	code, _, errs = command(t.Context(), "restore", copied, "--config", file)
	require.Equal(t, 2, code, errs)
	require.Contains(t, errs, "hint: nothing was changed. --force")
	code, _, errs = command(t.Context(), "restore", copied, "--config", file, "--force")
	require.Zero(t, code, errs)
}

// A relative path of the database counts from the file; a server's name is left as it is, and its password is told to nobody.
func TestDatabaseIsAFileOrAServer(t *testing.T) {
	for given, want := range map[string]string{"": "", "sqlite:x.db": "sqlite:/etc/sdbox/x.db", "x.db": "sqlite:/etc/sdbox/x.db", "sqlite:/y.db": "sqlite:/y.db", "postgres:host=/run": "postgres:host=/run"} {
		f := defaults()
		f.Database = given
		c, err := f.config("/etc/sdbox")
		require.NoError(t, err)
		require.Equal(t, want, c.Database, given)
	}
	file := filepath.Join(t.TempDir(), "gateway.toml")
	require.NoError(t, os.WriteFile(file, []byte(`database = "postgres:port=no password=secret"`), 0o600))
	code, _, errs := command(t.Context(), "config", "check", file)
	require.Equal(t, 2, code)
	require.Contains(t, errs, "database: ")
	require.NotContains(t, errs, "secret")
}

func settle(t *testing.T, state string) {
	pki := filepath.Join(t.TempDir(), "pki")
	require.NoError(t, ca.Init(pki, "lab", "", time.Now()))
	gateways, err := ca.Open(pki, profile.Gateways, "")
	require.NoError(t, err)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	own, err := gateways.Issue(profile.Gateway{Name: "gw1", Key: key.Public()})
	require.NoError(t, err)
	require.NoError(t, gateways.WriteIdentity(filepath.Join(state, "tls"), own, key))
	require.NoError(t, ca.Lend(pki, profile.Devices, "", filepath.Join(state, "devices")))
}

func TestConfigurationIsStrict(t *testing.T) {
	file := filepath.Join(t.TempDir(), "gateway.toml")
	for text, want := range map[string]string{
		"domian = \"lab\"":         "domian",
		"domain = ":                "gateway.toml",
		"domain = \"A B\"":         "domain",
		"[tunnel]\nlease = \"2h\"": "tunnel.lease",
		"[tunnel]\nlease = \"x\"":  "tunnel.lease",
	} {
		require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
		code, _, errs := command(t.Context(), "config", "check", file)
		require.Equal(t, 2, code, text)
		require.Contains(t, errs, want)
	}
	code, _, _ := command(t.Context(), "config", "check", filepath.Join(t.TempDir(), "none"))
	require.Equal(t, 2, code)
	code, _, errs := command(t.Context(), "dance")
	require.Equal(t, 2, code)
	require.Contains(t, errs, "hint:")
	code, out, _ := command(t.Context(), "--help")
	require.Zero(t, code)
	require.Contains(t, out, "config")
}

const goodConfig = `domain = "lab"
name = "gw1"
state = "state"
language = "fr"
references = ["key"]
threshold = 1
database = "postgres://db/x"
[front_door]
listen = ":443"
endpoints = ["192.0.2.1:443"]
max_waiting = 9
[tunnel]
lease = "10m" # of at most 15
[devices]
dir = "authority"
[health]
listen = "127.0.0.1:9090"
`

func FuzzConfig(f *testing.F) {
	f.Add([]byte(goodConfig))
	for old, changed := range map[string]string{
		`"gw1"`: `"GW"`, `"10m"`: `"2h"`, `"10m" #`: `"x" #`, `domain = "lab"`: `domain = "A B"`, `"192.0.2.1:443"`: `"gw1"`, `["192.0.2.1:443"]`: `[]`, `"fr"`: `"de"`,
		`"127.0.0.1:9090"`: `"0.0.0.0:9090"`, `state`: `stat`, `]`: ``, `"authority"`: `""`, `threshold = 1`: `threshold = 9`,
		`"postgres://db/x"`: `"x.db"`, `max_waiting = 9`: `max_waiting = 0`, `["key"]`: `[]`,
	} {
		f.Add([]byte(strings.Replace(goodConfig, old, changed, 1)))
	}
	f.Add([]byte("state = \"\"\ndatabase = \"mysql://x\"\nsupport = \"" + strings.Repeat("x", 201) + "\"\n[tunnel]\nlisten = \"x\"\nlease = \"10h\"\n[health]\nlisten = \"9090\"\n"))
	f.Add(make([]byte, settings.Max+1))
	f.Fuzz(func(t *testing.T, text []byte) {
		file := filepath.Join(t.TempDir(), "gateway.toml")
		require.NoError(t, os.WriteFile(file, text, 0o600))
		if c, err := readFile(file); err == nil {
			require.NoError(t, c.Check())
			require.True(t, filepath.IsAbs(c.State) && filepath.IsAbs(c.TLS) && filepath.IsAbs(c.AuditKey))
		}
	})
}
