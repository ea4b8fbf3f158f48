// SPDX-License-Identifier: Apache-2.0

package main

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sdbox/firmware/reference"
	"sdbox/gateway/audit"
	"sdbox/gateway/registry"
	"sdbox/gateway/store"
	"sdbox/internal/ident"
	"sdbox/internal/merkle"
	"sdbox/pki/ca"
	"sdbox/pki/profile"

	"github.com/stretchr/testify/require"
)

func command(t *testing.T, args ...string) (code int, out, errs string) {
	var o, e bytes.Buffer
	code = run(t.Context(), args, &o, &e)
	return code, o.String(), e.String()
}

// exported makes an audit log with a few rows and exports it.
func exported(t *testing.T) (dir, key string) {
	base := t.TempDir()
	db, err := store.Open(t.Context(), filepath.Join(base, "db"))
	require.NoError(t, err)
	defer db.Close()
	for _, name := range []string{"Marie", "Paul", "Anna"} {
		_, err := registry.New(db).AddPerson(t.Context(), "operator:test", registry.Person{Name: name, Language: "fr"})
		require.NoError(t, err)
	}
	secret, verifier, err := merkle.GenerateKey("gw1.lab/audit")
	require.NoError(t, err)
	sealed, err := audit.Open(t.Context(), audit.Config{Store: db, Dir: filepath.Join(base, "log"), Key: secret})
	require.NoError(t, err)
	dir, key = filepath.Join(base, "export"), filepath.Join(base, "audit.pub")
	require.NoError(t, sealed.Export(t.Context(), dir))
	require.NoError(t, os.WriteFile(key, []byte(verifier+"\n"), 0o600))
	return dir, key
}

func TestAuditVerifiesOfflineAndNamesTheFirstBadRow(t *testing.T) {
	dir, key := exported(t)
	code, out, errs := command(t, "--json", "audit", "verify", dir, "--key", key)
	require.Zero(t, code, errs)
	var report verifyReport
	require.NoError(t, json.Unmarshal([]byte(out), &report))
	require.True(t, report.OK)
	require.Equal(t, int64(3), report.Rows)

	rows := filepath.Join(dir, "rows.jsonl")
	text, err := os.ReadFile(rows)
	require.NoError(t, err)
	lines := strings.SplitAfter(string(text), "\n")
	require.NoError(t, os.WriteFile(rows, []byte(lines[0]+lines[2]), 0o600))
	code, _, errs = command(t, "audit", "verify", dir, "--key", key)
	require.Equal(t, exitBadAudit, code)
	require.Contains(t, errs, "audit row 2: deleted")
	require.Contains(t, errs, "hint: row 2")
}

func TestConfigurationIsStrict(t *testing.T) {
	file := filepath.Join(t.TempDir(), "ctl.toml")
	for text, want := range map[string]string{"gatway = \"x\"": "gatway", "gateway = \"x\"": "is missing", "gateway = ": "ctl.toml"} {
		require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
		code, _, errs := command(t, "--config", file, "sessions")
		require.Equal(t, exitUsage, code)
		require.Contains(t, errs, want)
	}
	code, _, errs := command(t, "--config", filepath.Join(t.TempDir(), "none"), "sessions")
	require.Equal(t, exitUsage, code)
	require.Contains(t, errs, "hint:")
	code, _, errs = command(t, "cut", "x")
	require.Equal(t, exitUsage, code)
	require.Contains(t, errs, "--reason")
	code, _, errs = command(t, "message", "x")
	require.Equal(t, exitUsage, code)
	require.Contains(t, errs, "--text")
}

// An export comes from the network: it must not write beside its folder, nor anything but plain files.
func TestUnpackStaysInItsFolder(t *testing.T) {
	for _, h := range []tar.Header{
		{Name: "../out", Typeflag: tar.TypeReg}, {Name: "/tmp/out", Typeflag: tar.TypeReg}, {Name: "a/../../out", Typeflag: tar.TypeReg},
		{Name: "link", Typeflag: tar.TypeSymlink, Linkname: "/etc/passwd"}, {Name: "dev", Typeflag: tar.TypeChar},
	} {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		require.NoError(t, w.WriteHeader(&h))
		require.NoError(t, w.Close())
		parent := t.TempDir()
		dir := filepath.Join(parent, "export")
		require.NoError(t, os.Mkdir(dir, 0o700))
		_, err := unpack(&b, dir)
		require.Error(t, err, h.Name)
		left, err := os.ReadDir(parent)
		require.NoError(t, err)
		require.Len(t, left, 1)
	}
}

// A session is checked from roots that are given; what is missing in them, or in the log, is said with the next thing to try.
func TestAuditSessionSaysWhatItCannotCheck(t *testing.T) {
	dir, key := exported(t)
	base := t.TempDir()
	pki, release := filepath.Join(base, "pki"), filepath.Join(base, "release.pub")
	require.NoError(t, ca.Init(pki, "lab", "", time.Now()))
	authority, err := ca.Open(pki, profile.Cards, "")
	require.NoError(t, err)
	roots := filepath.Join(base, "ca.pem")
	require.NoError(t, os.WriteFile(roots, authority.Trust().PEM(), 0o600))
	_, public, err := reference.GenerateKey("release-1.lab")
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(release, []byte(public+"\n"), 0o600))
	id := ident.NewID().String()
	check := func(id, ca string, more ...string) (int, string) {
		code, _, errs := command(t, append([]string{"audit", "session", id, "--dir", dir, "--key", key, "--ca", ca, "--release", release}, more...)...)
		return code, errs
	}
	code, errs := check(id, roots)
	require.Equal(t, exitNotFound, code, errs)
	require.Contains(t, errs, "no such session")
	code, errs = check("x", roots)
	require.Equal(t, exitUsage, code, errs)
	code, errs = check(id, key)
	require.Equal(t, exitUsage, code, errs)
	require.Contains(t, errs, "ca.pem")
	code, errs = check(id, roots, "--threshold", "2")
	require.Equal(t, exitUsage, code, errs)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "rows.jsonl"), nil, 0o600))
	code, errs = check(id, roots)
	require.Equal(t, exitBadAudit, code, errs)
	require.Contains(t, errs, "audit row 1: cut off")
}
