// SPDX-License-Identifier: Apache-2.0

package store

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"sdbox/gateway/store/storetest"
	"sdbox/internal/ident"

	"github.com/pressly/goose/v3"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// The tests of this file run the test binary again as a child, which dies or runs out of disk, and read what it left.

const childEnv = "SDBOX_STORE_CHILD"

// serverEnv names the folder of the PostgreSQL server that this run of the tests shares.
const serverEnv = "SDBOX_STORE_SERVER"

func TestMain(m *testing.M) {
	if role := os.Getenv(childEnv); role != "" {
		if err := child(role, os.Args[1]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	server, err := storetest.Start()
	if err == nil {
		err = os.Setenv(serverEnv, server.Dir())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	if err := server.Stop(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func runChild(t *testing.T, role, dir string, attr *syscall.SysProcAttr) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], dir)
	cmd.Env = append(os.Environ(), childEnv+"="+role)
	cmd.SysProcAttr = attr
	cmd.Stderr = os.Stderr
	return cmd
}

func child(role, dir string) error {
	if role == "full" {
		return fillDisk(dir)
	}
	s, err := Open(context.Background(), filepath.Join(dir, "house.db"))
	if err != nil {
		return err
	}
	for {
		id := ident.NewID()
		e := Entry{Actor: "gateway:gw1", Action: "person.add", Object: "person:" + id.String()}
		err := s.Change(context.Background(), e, func(tx *Tx) error {
			if err := addPerson(id)(tx); err != nil {
				return err
			}
			if role == "before" {
				return syscall.Kill(os.Getpid(), syscall.SIGKILL) // changed, not committed
			}
			return nil
		})
		if err != nil {
			return err
		}
		if role == "after" {
			return syscall.Kill(os.Getpid(), syscall.SIGKILL) // committed, nobody told
		}
		n, err := s.Last(context.Background())
		if err != nil {
			return err
		}
		fmt.Println(n)
	}
}

func reopen(t *testing.T, dir string) *Store {
	t.Helper()
	s, err := Open(t.Context(), filepath.Join(dir, "house.db"))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	return s
}

func TestCrashBeforeCommitLeavesNothingAndAfterItEverything(t *testing.T) {
	for role, want := range map[string]int64{"before": 0, "after": 1} {
		dir := t.TempDir()
		require.ErrorContains(t, runChild(t, role, dir, nil).Run(), "killed")
		require.Equal(t, want, whole(t, reopen(t, dir)), role)
	}
}

func TestKilledWriterLosesNoAcknowledgedChange(t *testing.T) {
	dir := t.TempDir()
	cmd := runChild(t, "loop", dir, nil)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	var acknowledged int64
	for lines := bufio.NewScanner(out); lines.Scan(); {
		n, err := strconv.ParseInt(lines.Text(), 10, 64)
		if err != nil {
			continue // the line the kill cut
		}
		if acknowledged = n; n == 40 {
			require.NoError(t, cmd.Process.Kill())
		}
	}
	require.Error(t, cmd.Wait())
	s := reopen(t, dir)
	require.GreaterOrEqual(t, whole(t, s), acknowledged)
	require.NoError(t, s.Change(t.Context(), entry("person:next"), addPerson(ident.NewID())))
	whole(t, s)
}

// fillDisk runs in a mount namespace of its own, on a disk of 1 MB. It prints what was acknowledged, and checks after the disk
// was full, and again after there is room, that this and nothing else is there.
func fillDisk(dir string) (err error) {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	if err := unix.Mount("small", dir, "tmpfs", 0, "size=1m"); err != nil {
		return err
	}
	ctx := context.Background()
	s, err := Open(ctx, filepath.Join(dir, "house.db"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	acknowledged := int64(0)
	add := func() error {
		id := ident.NewID()
		e := Entry{Actor: "gateway:gw1", Action: "person.add", Object: "person:" + id.String(), Fields: map[string]string{"ballast": strings.Repeat("x", 8192)}}
		return s.Change(ctx, e, addPerson(id))
	}
	for range 1000 {
		if err = add(); err != nil {
			break
		}
		acknowledged++
	}
	if !errors.Is(err, ErrFull) {
		return fmt.Errorf("after %d changes: %w, want ErrFull", acknowledged, err)
	}
	full := acknowledged
	if err := holds(ctx, s, acknowledged); err != nil {
		return fmt.Errorf("disk full: %w", err)
	}
	if err := unix.Mount("small", dir, "tmpfs", unix.MS_REMOUNT, "size=64m"); err != nil {
		return err
	}
	for range 3 {
		if err := add(); err != nil {
			return fmt.Errorf("there is room again: %w", err)
		}
		acknowledged++
	}
	if err := holds(ctx, s, acknowledged); err != nil {
		return fmt.Errorf("there is room again: %w", err)
	}
	again, err := Open(ctx, filepath.Join(dir, "house.db"))
	if err != nil {
		return err
	}
	fmt.Println(full, acknowledged)
	return errors.Join(holds(ctx, again, acknowledged), again.Close())
}

func holds(ctx context.Context, s *Store, want int64) error {
	return s.View(ctx, func(tx *Tx) error {
		var n, audits, events, people int64
		if err := tx.QueryRow(`SELECT (SELECT n FROM seqno), (SELECT count(*) FROM audit), (SELECT count(*) FROM outbox), (SELECT count(*) FROM person)`).Scan(&n, &audits, &events, &people); err != nil {
			return err
		}
		if n != want || audits != want || events != want || people != want {
			return fmt.Errorf("number %d, %d audit rows, %d events, %d people: want %d of each", n, audits, events, people, want)
		}
		return nil
	})
}

func TestFullDiskLosesNothing(t *testing.T) {
	cmd := runChild(t, "full", t.TempDir(), &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS})
	out, err := cmd.Output()
	require.NoError(t, err)
	require.Regexp(t, `^\d{2,} \d{2,}\n$`, string(out))
}

func TestDatabaseOfANewerProgramIsRefused(t *testing.T) {
	for _, e := range engines() {
		dsn := e.dsn(t)
		s, err := Open(t.Context(), dsn)
		require.NoError(t, err)
		_, err = s.write.ExecContext(t.Context(), `INSERT INTO goose_db_version (version_id, is_applied) VALUES (9999, true)`)
		require.NoError(t, err)
		require.NoError(t, s.Close())
		_, err = Open(t.Context(), dsn)
		require.ErrorIs(t, err, ErrNewer, e.name)
	}
}

func TestMigrationsGoDownAndUpAgain(t *testing.T) {
	each(t, func(t *testing.T, open func() *Store) {
		s := open()
		p, err := s.provider()
		require.NoError(t, err)
		_, err = p.DownTo(t.Context(), 0)
		require.NoError(t, err)
		tables := `SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'goose%' AND name NOT LIKE 'sqlite%'`
		if s.dialect.goose == goose.DialectPostgres {
			tables = `SELECT count(*) FROM information_schema.tables WHERE table_schema = current_schema() AND table_name NOT LIKE 'goose%'`
		}
		var left int
		require.NoError(t, s.write.QueryRowContext(t.Context(), tables).Scan(&left))
		require.Zero(t, left)
		_, err = p.Up(t.Context())
		require.NoError(t, err)
		require.NoError(t, s.Change(t.Context(), entry("person:x"), addPerson(ident.NewID())))
		whole(t, s)
	})
}

func TestTheTwoSchemasAreOneText(t *testing.T) {
	names, err := fs.Glob(migrations, "migrations/sqlite/*.sql")
	require.NoError(t, err)
	require.NotEmpty(t, names)
	for _, name := range names {
		one, err := fs.ReadFile(migrations, name)
		require.NoError(t, err)
		other, err := fs.ReadFile(migrations, strings.Replace(name, "sqlite", "postgres", 1))
		require.NoError(t, err)
		require.Equal(t, strings.ReplaceAll(string(one), " BLOB", " BYTEA"), string(other), name)
	}
}

func TestOnlyTheOwnerReadsTheFile(t *testing.T) {
	dir := t.TempDir()
	reopen(t, dir)
	files, err := filepath.Glob(filepath.Join(dir, "house.db*"))
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, f := range files {
		info, err := os.Stat(f)
		require.NoError(t, err)
		require.Zero(t, info.Mode().Perm()&0o077, f)
	}
	for _, bad := range []string{"", "sqlite:", ":memory:", "postgres:", "postgres:host=" + dir, "postgres://u:secret@[x/y", "postgres:password=secret port=no",
		dir + "/a?mode=memory", dir, filepath.Join(dir, "none", "house.db")} {
		_, err := Open(t.Context(), bad)
		require.Error(t, err, bad)
		require.NotContains(t, err.Error(), "secret")
	}
}
