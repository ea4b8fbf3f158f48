// SPDX-License-Identifier: Apache-2.0

package audit

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sdbox/gateway/store"
	"sdbox/internal/merkle"

	"github.com/stretchr/testify/require"
)

// house is a store with its log.
type house struct {
	t        testing.TB
	dir      string
	store    *store.Store
	log      *Log
	secret   string
	verifier string
}

func newHouse(t testing.TB) *house {
	t.Helper()
	h := &house{t: t, dir: t.TempDir()}
	var err error
	h.secret, h.verifier, err = merkle.GenerateKey("gw1.lab/audit")
	require.NoError(t, err)
	h.store, err = store.Open(t.Context(), filepath.Join(h.dir, "house.db"))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, h.store.Close()) })
	h.log, err = h.open()
	require.NoError(t, err)
	return h
}

func (h *house) open() (*Log, error) {
	return Open(h.t.Context(), Config{Store: h.store, Dir: filepath.Join(h.dir, "audit"), Key: h.secret})
}

func (h *house) change(n int) {
	h.t.Helper()
	for i := range n {
		e := store.Entry{Actor: "operator:olga", Action: "note.add", Object: fmt.Sprintf("note:%d", i), Fields: map[string]string{"text": "<&> é"}, Personal: map[string]string{"name": "Ada"}}
		require.NoError(h.t, h.store.Change(h.t.Context(), e, func(*store.Tx) error { return nil }))
	}
}

func (h *house) export() string {
	h.t.Helper()
	dir := filepath.Join(h.t.TempDir(), "export")
	require.NoError(h.t, h.log.Export(h.t.Context(), dir))
	return dir
}

func TestExportVerifiesOffline(t *testing.T) {
	h := newHouse(t)
	h.change(10)
	before := h.export()
	h.change(290)
	require.NoError(t, h.store.ErasePersonal(t.Context(), "gateway:gw1", 100))
	dir := h.export()
	require.NoError(t, h.store.Close(), "what follows needs neither the database")
	require.NoError(t, os.RemoveAll(h.dir), "nor the log")

	report, err := Verify(dir, h.verifier)
	require.NoError(t, err)
	require.Equal(t, "gw1.lab/audit", report.Log)
	require.Equal(t, int64(301), report.Rows)
	require.Equal(t, int64(100), report.Erased)
	require.False(t, report.Last.Before(report.First))

	kept, err := os.ReadFile(filepath.Join(before, "checkpoint"))
	require.NoError(t, err)
	_, err = Verify(dir, h.verifier, kept)
	require.NoError(t, err)
	later, err := os.ReadFile(filepath.Join(dir, "checkpoint"))
	require.NoError(t, err)
	_, err = Verify(before, h.verifier, later)
	require.ErrorIs(t, err, merkle.ErrDamaged, "an old export given for the newest")
	_, other, err := merkle.GenerateKey("gw1.lab/audit")
	require.NoError(t, err)
	_, err = Verify(dir, other)
	require.ErrorIs(t, err, merkle.ErrDamaged)
}

func TestVerifierNamesTheFirstBadRow(t *testing.T) {
	h := newHouse(t)
	h.change(300)
	line := func(text string) string {
		row, err := json.Marshal(exported{Leaf: text})
		require.NoError(t, err)
		return string(row) + "\n"
	}
	for _, c := range []struct {
		name  string
		spoil func(rows []string) []string
		row   int64
		fault Fault
	}{
		{"altered", func(r []string) []string { r[41] = strings.Replace(r[41], "olga", "ivan", 1); return r }, 42, Altered},
		{"altered, last row", func(r []string) []string { r[299] = strings.Replace(r[299], "olga", "ivan", 1); return r }, 300, Altered},
		{"altered in a byte of JSON", func(r []string) []string { r[41] = r[41][1:]; return r }, 42, Altered},
		{"altered to an empty line", func(r []string) []string { r[41] = "\n"; return r }, 42, Altered},
		{"altered by an unknown field", func(r []string) []string { r[41] = `{"x":1,` + r[41][1:]; return r }, 42, Altered},
		{"altered in its spelling only", func(r []string) []string { r[41] = strings.Replace(r[41], `{\"action\"`, `{ \"action\"`, 1); return r }, 42, Altered},
		{"deleted", func(r []string) []string { return append(r[:41:41], r[42:]...) }, 42, Deleted},
		{"deleted, the first", func(r []string) []string { return r[1:] }, 1, Deleted},
		{"deleted, several", func(r []string) []string { return append(r[:41:41], r[61:]...) }, 42, Deleted},
		{"deleted, and the rest renumbered", func(r []string) []string {
			out := append([]string{}, r[:41]...)
			for i, text := range r[42:] {
				out = append(out, strings.Replace(text, fmt.Sprintf(`\"seq\":%d`, i+43), fmt.Sprintf(`\"seq\":%d`, i+42), 1))
			}
			return out
		}, 42, Altered},
		{"inserted", func(r []string) []string {
			return append(r[:41:41], append([]string{line(`{"action":"x.y"}`)}, r[41:]...)...)
		}, 42, Inserted},
		{"inserted, several", func(r []string) []string {
			return append(r[:41:41], append([]string{line(`{}`), line(`{}`), line(`no`)}, r[41:]...)...)
		}, 42, Inserted},
		{"inserted, a copy", func(r []string) []string { return append(r[:41:41], append([]string{r[39]}, r[41:]...)...) }, 42, Inserted},
		{"inserted at the end", func(r []string) []string { return append(r, line(`{}`)) }, 301, Inserted},
		{"swapped", func(r []string) []string { r[41], r[42] = r[42], r[41]; return r }, 42, Swapped},
		{"swapped over a distance", func(r []string) []string { r[41], r[200] = r[200], r[41]; return r }, 42, Swapped},
		{"swapped, the last two", func(r []string) []string { r[298], r[299] = r[299], r[298]; return r }, 299, Swapped},
		{"cut off", func(r []string) []string { return r[:200] }, 201, Cut},
		{"cut off, all", func([]string) []string { return nil }, 1, Cut},
		{"another name in clear", func(r []string) []string { r[41] = strings.Replace(r[41], `"Ada"`, `"Bob"`, 1); return r }, 42, Personal},
		{"the name taken, the salt left", func(r []string) []string {
			r[41] = strings.Replace(r[41], `"personal":{"name":"Ada"},`, "", 1)
			return r
		}, 42, Personal},
		{"a second name", func(r []string) []string {
			r[41] = strings.Replace(r[41], `{"name":"Ada"}`, `{"name":"Ada","age":"9"}`, 1)
			return r
		}, 42, Personal},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := h.export()
			file := filepath.Join(dir, rowsFile)
			text, err := os.ReadFile(file)
			require.NoError(t, err)
			rows := strings.SplitAfter(strings.TrimSuffix(string(text), "\n"), "\n")
			rows[len(rows)-1] += "\n"
			spoilt := strings.Join(c.spoil(rows), "")
			require.NotEqual(t, string(text), spoilt)
			require.NoError(t, os.WriteFile(file, []byte(spoilt), 0o600))
			_, err = Verify(dir, h.verifier)
			var bad *BadRowError
			require.ErrorAs(t, err, &bad)
			require.Equal(t, c.fault, bad.Fault, bad.Error())
			require.Equal(t, c.row, bad.Row, bad.Error())
		})
	}
}

func TestRowsCutOffWithTheirSealsShowAgainstAKeptCheckpoint(t *testing.T) {
	h := newHouse(t)
	h.change(5)
	early := h.export()
	h.change(5)
	kept, err := os.ReadFile(filepath.Join(h.export(), "checkpoint"))
	require.NoError(t, err)
	_, err = Verify(early, h.verifier)
	require.NoError(t, err, "by itself the earlier export is whole")
	_, err = Verify(early, h.verifier, kept)
	require.ErrorIs(t, err, merkle.ErrDamaged)
}

func TestDatabaseChangedBehindTheSealsIsNoticed(t *testing.T) {
	h := newHouse(t)
	h.change(3)
	require.NoError(t, h.log.Seal(t.Context()))
	require.NoError(t, h.store.Change(t.Context(), store.Entry{Actor: "operator:mallory", Action: "note.add", Object: "note:x"}, func(tx *store.Tx) error {
		_, err := tx.Exec(`UPDATE audit SET leaf = replace(leaf, 'olga', 'ivan') WHERE seq = 3`)
		return err
	}))
	_, err := h.open()
	require.ErrorIs(t, err, ErrRolledBack)

	h = newHouse(t)
	h.change(3)
	require.NoError(t, h.store.Change(t.Context(), store.Entry{Actor: "operator:mallory", Action: "note.add", Object: "note:x"}, func(tx *store.Tx) error {
		_, err := tx.Exec(`DELETE FROM audit WHERE seq = 2`)
		return err
	}))
	require.ErrorIs(t, h.log.Seal(t.Context()), ErrRolledBack, "a gap is never sealed")
	require.ErrorIs(t, h.log.Run(t.Context(), nil), ErrRolledBack)

	// An older copy of the database under a newer log.
	h = newHouse(t)
	h.change(3)
	require.NoError(t, h.log.Seal(t.Context()))
	require.NoError(t, h.store.Close())
	for _, f := range []string{"house.db", "house.db-wal", "house.db-shm"} {
		require.NoError(t, os.RemoveAll(filepath.Join(h.dir, f)))
	}
	h.store, err = store.Open(t.Context(), filepath.Join(h.dir, "house.db"))
	require.NoError(t, err)
	_, err = h.open()
	require.ErrorIs(t, err, ErrRolledBack)
}

func TestRunSealsEachChangeAndSurvivesADiskWithoutRoom(t *testing.T) {
	h := newHouse(t)
	tiles := filepath.Join(h.dir, "audit", "tile")
	require.NoError(t, os.WriteFile(tiles, nil, 0o600)) // a file where the folder of tiles must be: no tile can be written
	ctx, cancel := context.WithCancel(t.Context())
	failed, done := make(chan error), make(chan error, 1)
	go func() {
		done <- h.log.Run(ctx, func(err error) { failed <- err })
	}()
	h.change(1)
	require.ErrorContains(t, <-failed, "seal")
	require.NoError(t, os.Remove(tiles))
	h.change(1)
	require.Eventually(t, func() bool {
		checkpoint, err := os.ReadFile(filepath.Join(h.dir, "audit", "checkpoint"))
		return err == nil && strings.Contains(string(checkpoint), "\n2\n")
	}, 20*time.Second, 5*time.Millisecond)
	cancel()
	require.NoError(t, <-done)
	again, err := h.open()
	require.NoError(t, err)
	require.Equal(t, int64(2), again.size())
}

func TestExportOverwritesNothing(t *testing.T) {
	h := newHouse(t)
	require.Error(t, h.log.Export(t.Context(), filepath.Join(t.TempDir(), "x")), "nothing happened yet")
	h.change(1)
	require.ErrorIs(t, h.log.Export(t.Context(), t.TempDir()), os.ErrExist)
}

func FuzzVerifyRows(f *testing.F) {
	leaf, err := store.Leaf{Action: "a.b", Actor: "x:y", At: 1, Object: "o:p", Seq: 1, Personal: map[string]string{"n": store.Commit([]byte{1}, "n", "v")}}.Encode()
	require.NoError(f, err)
	row, err := json.Marshal(exported{Leaf: string(leaf), Personal: map[string]string{"n": "v"}, Salt: []byte{1}})
	require.NoError(f, err)
	f.Add(string(row) + "\n")
	f.Add(string(row) + "\n" + string(row) + "\n")
	f.Add("{}\n{\n\n")
	at := func(seq int64) (store.Leaf, string) {
		l := store.Leaf{Action: "a.b", Actor: "x:y", At: 1, Object: "o:p", Seq: seq}
		text, err := l.Encode()
		require.NoError(f, err)
		row, err := json.Marshal(exported{Leaf: string(text)})
		require.NoError(f, err)
		return l, string(row) + "\n"
	}
	third, thirdRow := at(3)
	_, stranger := at(9)
	thirdLeaf, err := third.Encode()
	require.NoError(f, err)
	first := string(row) + "\n"
	erased, err := json.Marshal(exported{Leaf: string(leaf)})
	require.NoError(f, err)
	changed, err := json.Marshal(exported{Leaf: string(leaf), Personal: map[string]string{"n": "w"}, Salt: []byte{1}})
	require.NoError(f, err)
	fewer, err := json.Marshal(exported{Leaf: string(leaf), Salt: []byte{1}})
	require.NoError(f, err)
	for _, text := range []string{
		first + thirdRow, thirdRow + first, stranger + first, stranger, string(erased) + "\n" + stranger, string(changed) + "\n", string(fewer) + "\n",
		"{\"leaf\":\"second\"}\n" + first, first + "{\"leaf\":\"second\"}\n", "{} {}\n",
	} {
		f.Add(text)
	}
	sealed := &merkle.Sealed{Origin: "x", Leaves: []merkle.Hash{merkle.LeafHash(leaf), merkle.LeafHash([]byte("second")), merkle.LeafHash(thirdLeaf)}}
	f.Fuzz(func(t *testing.T, text string) {
		_, err := verifyRows(strings.NewReader(text), sealed)
		var bad *BadRowError
		if !errors.As(err, &bad) || bad.Row < 1 || bad.Row > 4 {
			t.Fatalf("the second row is no row of the store, and yet: %v", err)
		}
	})
}

// BenchmarkVerify is the offline check of an export of 2,000 rows.
func BenchmarkVerify(b *testing.B) {
	h := newHouse(b)
	h.change(2000)
	dir := h.export()
	for b.Loop() {
		report, err := Verify(dir, h.verifier)
		require.NoError(b, err)
		require.Equal(b, int64(2000), report.Rows)
	}
}

// BenchmarkSeal is one change and its seal: row, event, tile and checkpoint on the disk.
func BenchmarkSeal(b *testing.B) {
	h := newHouse(b)
	for b.Loop() {
		h.change(1)
		require.NoError(b, h.log.Seal(b.Context()))
	}
}
