// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"sdbox/gateway/audit"
	"sdbox/gateway/registry"
	"sdbox/gateway/store"
	"sdbox/internal/merkle"

	"github.com/stretchr/testify/require"
)

// stateOf makes the configuration of a gateway that is never run: a state folder and an audit key.
func stateOf(t *testing.T) Config {
	dir := t.TempDir()
	secret, _, err := merkle.GenerateKey("gw1.lab/audit")
	require.NoError(t, err)
	conf := Config{Domain: "lab", Name: "gw1", State: filepath.Join(dir, "state"), AuditKey: filepath.Join(dir, "audit.key")}
	require.NoError(t, os.Mkdir(conf.State, 0o700))
	require.NoError(t, os.WriteFile(conf.AuditKey, []byte(secret+"\n"), 0o600))
	return conf
}

// grow adds people to a state and seals their rows.
func grow(t *testing.T, conf Config, names ...string) {
	s, err := store.Open(t.Context(), conf.dsn())
	require.NoError(t, err)
	for _, name := range names {
		_, err := registry.New(s).AddPerson(t.Context(), "operator:test", registry.Person{Name: name, Language: "fr"})
		require.NoError(t, err)
	}
	secret, _, err := conf.logKey()
	require.NoError(t, err)
	sealed, err := audit.Open(t.Context(), audit.Config{Store: s, Dir: conf.auditDir(), Key: secret})
	require.NoError(t, err)
	require.NoError(t, sealed.Seal(t.Context()))
	require.NoError(t, s.Close())
}

// people is who is in a state; it must fit its seals, or the test ends.
func people(t *testing.T, conf Config) string {
	_, verifier, err := conf.logKey()
	require.NoError(t, err)
	s, err := store.Open(t.Context(), conf.dsn())
	require.NoError(t, err)
	_, err = audit.Compare(t.Context(), s, conf.auditDir(), verifier)
	require.NoError(t, err)
	list, err := registry.New(s).People(t.Context())
	require.NoError(t, err)
	require.NoError(t, s.Close())
	var names []string
	for _, p := range list {
		names = append(names, p.Name)
	}
	return strings.Join(names, " ")
}

func names(t *testing.T, dir string) string {
	list, err := os.ReadDir(dir)
	require.NoError(t, err)
	var out []string
	for _, e := range list {
		if e.Name() != "lock" && !strings.HasSuffix(e.Name(), "-wal") && !strings.HasSuffix(e.Name(), "-shm") {
			out = append(out, e.Name())
		}
	}
	return strings.Join(out, " ")
}

func TestBackupOfARunningGatewayIsWholeAndRestores(t *testing.T) {
	conf, _ := settle(t)
	g, stop := run(t, conf)
	busy, rest := context.WithCancel(t.Context())
	var all sync.WaitGroup
	all.Go(func() {
		for i := 0; busy.Err() == nil; i++ {
			if _, err := g.registry.AddPerson(context.Background(), "operator:test", registry.Person{Name: fmt.Sprintf("Person %d", i), Language: "fr"}); err != nil {
				t.Error(err)
				return
			}
		}
	})
	dir := t.TempDir()
	var last Copied
	for i := range 3 {
		var err error
		last, err = Backup(t.Context(), conf, filepath.Join(dir, fmt.Sprintf("%d.backup", i)))
		require.NoError(t, err)
	}
	_, err := Restore(t.Context(), conf, filepath.Join(dir, "0.backup"), true)
	require.ErrorIs(t, err, ErrRunning)
	rest()
	all.Wait()
	stop()
	_, err = Backup(t.Context(), conf, filepath.Join(dir, "0.backup"))
	require.ErrorIs(t, err, fs.ErrExist)
	require.Equal(t, "0.backup 1.backup 2.backup", names(t, dir), "nothing half-made is left")
	info, err := os.Stat(filepath.Join(dir, "2.backup"))
	require.NoError(t, err)
	require.Zero(t, info.Mode().Perm()&0o077)

	empty := conf
	empty.State = filepath.Join(t.TempDir(), "state")
	back, err := Restore(t.Context(), empty, filepath.Join(dir, "2.backup"), false)
	require.NoError(t, err)
	require.Equal(t, last.Rows, back.Rows)
	again, stop := run(t, empty)
	rows, err := again.store.Audit(t.Context(), store.AuditFilter{Object: "gateway:gw1", Newest: true, Limit: 2})
	require.NoError(t, err)
	require.Len(t, rows, 2)
	require.Contains(t, string(rows[1].Leaf), "gateway.restored")
	stop()
	people(t, empty)
	require.Equal(t, "audit gateway.db", names(t, empty.State))
}

func TestRestoreReplacesOnlyItsOwnPastUnlessForced(t *testing.T) {
	conf := stateOf(t)
	file := filepath.Join(t.TempDir(), "b")
	grow(t, conf, "Ada")
	early := file + "0"
	_, err := Backup(t.Context(), conf, early)
	require.NoError(t, err)
	grow(t, conf, "Bob")
	_, err = Backup(t.Context(), conf, file)
	require.NoError(t, err)
	_, err = Restore(t.Context(), conf, file, false)
	require.NoError(t, err, "the same state")
	require.Equal(t, "Ada Bob", people(t, conf))
	_, err = Restore(t.Context(), conf, file, false)
	require.ErrorIs(t, err, ErrNewerState, "it has the row of its restore by now")
	_, err = Restore(t.Context(), conf, early, false)
	require.ErrorIs(t, err, ErrNewerState)
	require.Equal(t, "Ada Bob", people(t, conf))

	grow(t, conf, "Cid") // another history than the backup's, and as long
	_, err = Restore(t.Context(), conf, early, true)
	require.NoError(t, err)
	require.Equal(t, "Ada", people(t, conf))
	grow(t, conf, "Dan", "Eve")
	_, err = Restore(t.Context(), conf, file, false)
	require.ErrorIs(t, err, ErrNewerState)
	kept, err := filepath.Glob(filepath.Join(conf.State, "replaced-*", "gateway.db"))
	require.NoError(t, err)
	require.NotEmpty(t, kept, "what was replaced is kept")

	require.NoError(t, os.Remove(filepath.Join(conf.State, "gateway.db")))
	_, err = Restore(t.Context(), conf, early, false)
	require.ErrorIs(t, err, ErrNewerState, "the database is gone, and the seals go further")
	other := conf
	other.Name = "gw2"
	_, err = Restore(t.Context(), other, early, true)
	require.ErrorContains(t, err, "gw1.lab")
	server := conf
	server.Database = "postgres:host=/nowhere dbname=x"
	_, err = Backup(t.Context(), server, file+"1")
	require.ErrorIs(t, err, store.ErrServer)
	_, err = Restore(t.Context(), server, file, true)
	require.ErrorIs(t, err, store.ErrServer)
}

func TestDamagedBackupChangesNothing(t *testing.T) {
	conf := stateOf(t)
	grow(t, conf, "Ada", "Bob")
	file := filepath.Join(t.TempDir(), "b")
	_, err := Backup(t.Context(), conf, file)
	require.NoError(t, err)
	good, err := os.ReadFile(file)
	require.NoError(t, err)
	before := names(t, conf.State)
	flip := func(at int) []byte {
		bad := bytes.Clone(good)
		bad[at] ^= 1
		return bad
	}
	with := func(h tar.Header, text string) []byte {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		h.Size = int64(len(text))
		require.NoError(t, w.WriteHeader(&h))
		_, err := io.WriteString(w, text)
		require.NoError(t, err)
		require.NoError(t, w.Flush())
		return append(b.Bytes(), good...)
	}
	for name, bad := range map[string][]byte{
		"empty": {}, "no backup": []byte("hello"), "half": good[:len(good)/2], "without its list": good[:len(good)-2560],
		"a bit of the database": flip(4096 * 12), "a bit of a header": flip(10),
		"a name outside":        with(tar.Header{Name: "audit/../../evil", Typeflag: tar.TypeReg}, "x"),
		"an absolute name":      with(tar.Header{Name: "/tmp/evil", Typeflag: tar.TypeReg}, "x"),
		"a link":                with(tar.Header{Name: "audit/checkpoint", Typeflag: tar.TypeSymlink, Linkname: "/etc/passwd"}, ""),
		"a part more":           with(tar.Header{Name: "audit/tile/0/x999", Typeflag: tar.TypeReg}, "x"),
		"a part that is large":  with(tar.Header{Name: "audit/tile/0/x999", Typeflag: tar.TypeReg}, strings.Repeat("x", maxBackupPart+1)),
		"a list before the end": with(tar.Header{Name: listEntry, Typeflag: tar.TypeReg}, `{"format":1,"domain":"lab","gateway":"gw1","rows":0,"files":{}}`),
	} {
		require.NoError(t, os.WriteFile(file, bad, 0o600))
		_, err := Restore(t.Context(), conf, file, true)
		require.Error(t, err, name)
		require.Equal(t, before, names(t, conf.State), name)
	}
	require.Equal(t, "Ada Bob", people(t, conf))
}

// A restore that is cut off after its mark is finished by the next start, wherever it was.
func TestRestoreCutOffIsFinished(t *testing.T) {
	for step := range 5 {
		conf := stateOf(t)
		grow(t, conf, "Ada")
		file := filepath.Join(t.TempDir(), "b")
		_, err := Backup(t.Context(), conf, file)
		require.NoError(t, err)
		grow(t, conf, "Bob")
		at, err := conf.restored()
		require.NoError(t, err)
		c, err := unpack(file, at)
		require.NoError(t, err)
		require.NoError(t, judge(t.Context(), conf, at, c, true))
		require.NoError(t, settleRestore(conf, at))
		keep := filepath.Join(conf.State, "replaced-x")
		for i, cut := range []func() error{ // what the moves do, one after the other
			func() error { return replace(at.database, filepath.Join(conf.State, "gateway.db"), keep, false) },
			func() error { return os.Rename(at.database, filepath.Join(conf.State, "gateway.db")) },
			func() error { return replace(at.audit, conf.auditDir(), keep, false) },
			func() error { return os.Rename(at.audit, conf.auditDir()) },
		} {
			if i < step {
				require.NoError(t, cut())
			}
		}
		require.NoError(t, finishRestore(conf))
		require.Equal(t, "Ada", people(t, conf), step)
		require.Equal(t, "audit gateway.db "+names(t, conf.State)[len("audit gateway.db "):], names(t, conf.State))
		require.NotContains(t, names(t, conf.State), "restore")
	}
}

// FuzzUnpack feeds files that somebody gives for a backup: nothing is written but below the two places, and only what the list names
// with its hash passes.
func FuzzUnpack(f *testing.F) {
	pack := func(list string, headers ...tar.Header) []byte {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		for _, h := range append(headers, tar.Header{Name: listEntry, Size: int64(len(list))}) {
			body := list
			if h.Name != listEntry {
				body = strings.Repeat("x", int(h.Size))
			}
			h.Mode = 0o600
			require.NoError(f, w.WriteHeader(&h))
			_, err := io.WriteString(w, body)
			require.NoError(f, err)
		}
		require.NoError(f, w.Close())
		return b.Bytes()
	}
	db, checkpoint := tar.Header{Name: databaseEntry, Size: 2}, tar.Header{Name: "audit/checkpoint", Size: 1}
	digest := func(text string) string { return fmt.Sprintf("%x", sha256.Sum256([]byte(text))) }
	list := `{"format":1,"domain":"lab","gateway":"gw1","made":"2026-11-24T00:00:00Z","rows":1,"files":{` +
		`"audit/checkpoint":{"size":1,"sha256":"` + digest("x") + `"},"gateway.db":{"size":2,"sha256":"` + digest("xx") + `"}}}`
	good := pack(list, db, checkpoint)
	f.Add(good)
	f.Add(good[:1024])
	f.Add(pack(list, db))
	f.Add(pack(strings.Replace(list, `"format":1`, `"format":9`, 1), db, checkpoint))
	f.Add(pack(`{"what":1}`))
	f.Add(pack(list, db, db))
	f.Add(pack(list, tar.Header{Name: "audit/../../out", Size: 1}))
	f.Add(pack(list, tar.Header{Name: databaseEntry, Typeflag: tar.TypeSymlink, Linkname: "/etc/passwd"}))
	f.Add(pack(list, checkpoint, tar.Header{Name: "audit/checkpoint/x", Size: 1}, tar.Header{Name: "audit/tile/0/000", Size: 1}))
	f.Add(pack(list, tar.Header{Name: "audit/tile/0", Size: 1}, tar.Header{Name: "audit/tile/0/000", Size: 1}))
	var long bytes.Buffer // a list that says it is too long
	require.NoError(f, tar.NewWriter(&long).WriteHeader(&tar.Header{Name: listEntry, Mode: 0o600, Size: maxBackupList + 1}))
	f.Add(long.Bytes())
	f.Add([]byte("not a tar"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		dir := t.TempDir()
		file := filepath.Join(dir, "file")
		require.NoError(t, os.WriteFile(file, raw, 0o600))
		c, err := unpack(file, restored{database: filepath.Join(dir, "db"), audit: filepath.Join(dir, "audit")})
		left, readErr := os.ReadDir(dir)
		require.NoError(t, readErr)
		for _, e := range left {
			require.Contains(t, "file db audit", e.Name())
		}
		if err == nil {
			require.Contains(t, c.Files, databaseEntry)
		}
	})
}
