// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"syscall"
	"time"

	"sdbox/gateway/audit"
	"sdbox/gateway/store"
	"sdbox/internal/merkle"

	"golang.org/x/sys/unix"
)

// What a caller of Restore branches on.
var (
	// ErrRunning says that a gateway, or another restore, uses the state.
	ErrRunning = errors.New("a gateway runs on this state")
	// ErrNewerState says that what would be replaced is newer than the backup, or of another history.
	ErrNewerState = errors.New("the state that is there is newer than the backup, or is not its past")
)

// The bounds of a backup's parts but the database, which is as large as the disk allows.
const (
	maxBackupFiles = 1 << 20
	maxBackupPart  = 64 << 10  // a tile, a checkpoint
	maxBackupList  = 256 << 20 // names and hashes of all files
)

// ready is the name of the file whose appearance makes a restore done: what it lists is on the disk, checked, and only moves.
const ready = "restore.ready"

// lockState keeps a second gateway, and a restore, away from a state folder until it is let go. The file belongs to whoever owns the
// folder, also when root asked first.
func lockState(state string) (release func() error, err error) {
	path := filepath.Join(state, "lock")
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("state: %w", err)
	}
	if err := giveTo(state, path); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		if errors.Is(err, unix.EWOULDBLOCK) {
			err = ErrRunning
		}
		return nil, errors.Join(fmt.Errorf("state %s: %w", state, err), f.Close())
	}
	return f.Close, nil
}

// giveTo makes the owner of a folder the owner of a path; only root has something to do.
func giveTo(folder, path string) error {
	info, err := os.Stat(folder)
	if err != nil {
		return err
	}
	owner, ok := info.Sys().(*syscall.Stat_t)
	if !ok || os.Getuid() != 0 {
		return nil
	}
	return filepath.WalkDir(path, func(p string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(p, int(owner.Uid), int(owner.Gid))
	})
}

// restored is where the parts of a backup wait, beside what they will replace.
type restored struct{ database, audit string }

func (c Config) restored() (restored, error) {
	path, err := store.File(c.dsn())
	return restored{path + ".restored", c.auditDir() + ".restored"}, err
}

// Restore puts a backup in the place of a gateway's state, which must not run. Everything is unpacked and checked beside it first; what
// was there moves into a folder replaced-TIME of the state. A state that is newer than the backup is replaced only by force. Whatever
// stops it, the old state or the new one stands: the next start of the gateway finishes what was begun.
func Restore(ctx context.Context, conf Config, file string, force bool) (Copied, error) {
	c, err := restore(ctx, conf, file, force)
	if err != nil {
		return Copied{}, fmt.Errorf("restore: %w", err)
	}
	return c, nil
}

func restore(ctx context.Context, conf Config, file string, force bool) (c Copied, err error) {
	if err := os.MkdirAll(conf.State, 0o700); err != nil {
		return c, err
	}
	release, err := lockState(conf.State)
	if err != nil {
		return c, err
	}
	defer func() { err = errors.Join(err, release()) }()
	if err := finishRestore(conf); err != nil {
		return c, err
	}
	at, err := conf.restored()
	if err != nil {
		return c, err
	}
	if err := discard(at); err != nil { // of a restore that did not get far
		return c, err
	}
	defer func() {
		if _, marked := os.Stat(filepath.Join(conf.State, ready)); err != nil && errors.Is(marked, fs.ErrNotExist) {
			err = errors.Join(err, discard(at))
		}
	}()
	if c, err = unpack(file, at); err != nil {
		return c, fmt.Errorf("%s: %w", file, err)
	}
	if c.Domain != conf.Domain || c.Gateway != conf.Name {
		return c, fmt.Errorf("%s: it is of gateway %s", file, c.Domain.Gateway(c.Gateway))
	}
	if err := judge(ctx, conf, at, c, force); err != nil {
		return c, err
	}
	if err := settleRestore(conf, at); err != nil {
		return c, err
	}
	return c, finishRestore(conf)
}

// settleRestore puts everything on the disk and then the mark: from here on the new state stands.
func settleRestore(conf Config, at restored) error {
	if _, err := os.Stat(at.database + "-wal"); err == nil {
		return errors.New("the copy of the database did not close")
	}
	for _, path := range []string{at.database, at.audit} {
		if err := giveTo(conf.State, path); err != nil {
			return err
		}
	}
	if err := errors.Join(syncPath(at.database), syncPath(filepath.Dir(at.database)), syncFolders(at.audit), syncPath(conf.State)); err != nil {
		return err
	}
	mark := filepath.Join(conf.State, ready)
	if err := os.WriteFile(mark+".new", []byte(time.Now().UTC().Format("20060102T150405.000000000Z")), 0o600); err != nil {
		return err
	}
	if err := syncPath(mark + ".new"); err != nil {
		return err
	}
	if err := os.Rename(mark+".new", mark); err != nil {
		return err
	}
	return syncPath(conf.State)
}

func discard(at restored) error {
	var errs []error
	for _, path := range []string{at.database, at.database + "-wal", at.database + "-shm", at.audit} {
		errs = append(errs, os.RemoveAll(path))
	}
	return errors.Join(errs...)
}

// judge checks the unpacked state against its own seals and against the state that it would replace, and audits the restore in it.
func judge(ctx context.Context, conf Config, at restored, c Copied, force bool) (err error) {
	_, verifier, err := conf.logKey()
	if err != nil {
		return err
	}
	s, err := store.Open(ctx, "sqlite:"+at.database)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	rows, err := audit.Compare(ctx, s, at.audit, verifier)
	if err != nil {
		return err
	}
	if rows != c.Rows {
		return fmt.Errorf("%d audit rows, its list says %d", rows, c.Rows)
	}
	if !force {
		if err := follows(ctx, conf, s, rows); err != nil {
			return err
		}
	}
	e := store.Entry{Actor: "gateway:" + conf.Name, Action: "gateway.restored", Object: "gateway:" + conf.Name, Fields: map[string]string{
		"rows": fmt.Sprint(rows), "made": c.Made.Format(time.RFC3339), "forced": fmt.Sprint(force)}}
	return s.Change(ctx, e, func(*store.Tx) error { return nil })
}

// follows wants the state that is there to be a past of the backup: each of its audit rows is there too, and its seals go no further.
func follows(ctx context.Context, conf Config, backup *store.Store, rows int64) (err error) {
	secret, _, err := conf.logKey()
	if err != nil {
		return err
	}
	if _, err := os.Stat(conf.auditDir()); err == nil {
		sealed, err := merkle.Open(conf.auditDir(), secret)
		if err != nil {
			return fmt.Errorf("the state that is there: %w", err)
		}
		if sealed.Size() > rows {
			return fmt.Errorf("%d rows are sealed here, the backup has %d: %w", sealed.Size(), rows, ErrNewerState)
		}
	}
	path, err := store.File(conf.dsn())
	if err != nil {
		return err
	}
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	current, err := store.Open(ctx, conf.dsn())
	if err != nil {
		return fmt.Errorf("the state that is there: %w", err)
	}
	defer func() { err = errors.Join(err, current.Close()) }()
	return audit.Rows(ctx, current, func(row store.AuditRow) error {
		same, err := backup.Audit(ctx, store.AuditFilter{After: row.Seq - 1, Limit: 1})
		if err == nil && (len(same) != 1 || !bytes.Equal(same[0].Leaf, row.Leaf)) {
			err = fmt.Errorf("audit row %d is not in the backup: %w", row.Seq, ErrNewerState)
		}
		return err
	})
}

var partName = regexp.MustCompile(`^audit/(checkpoint|tile(/[a-z0-9][a-z0-9.]*)+)$`)

// unpack writes a backup's files to where they wait, each on the disk on return, and checks them against the list at its end.
func unpack(file string, at restored) (c Copied, err error) {
	f, err := os.Open(file)
	if err != nil {
		return c, err
	}
	defer f.Close() // only read from
	found := map[string]CopiedOne{}
	for in := tar.NewReader(f); ; {
		h, err := in.Next()
		if err != nil {
			return c, fmt.Errorf("it ends before its list: %w", err)
		}
		if h.Name == listEntry {
			if h.Size > maxBackupList {
				return c, errors.New("its list is too long")
			}
			dec := json.NewDecoder(in)
			dec.DisallowUnknownFields()
			if err := dec.Decode(&c); err != nil {
				return c, fmt.Errorf("its list: %w", err)
			}
			break
		}
		path := at.database
		if h.Name != databaseEntry {
			path = filepath.Join(at.audit, filepath.FromSlash(h.Name[min(len(auditFolder)+1, len(h.Name)):]))
		}
		if h.Typeflag != tar.TypeReg || len(found) >= maxBackupFiles || h.Name != databaseEntry && (!partName.MatchString(h.Name) || h.Size > maxBackupPart) {
			return c, fmt.Errorf("%.80q is no part of a backup", h.Name)
		}
		if found[h.Name], err = unpackOne(in, path); err != nil {
			return c, err
		}
	}
	if c.Format != backupFormat {
		return c, fmt.Errorf("format %d, this program knows %d", c.Format, backupFormat)
	}
	if _, whole := found[databaseEntry]; !whole || !maps.Equal(found, c.Files) {
		return c, errors.New("its files are not those of its list: it is damaged")
	}
	return c, os.MkdirAll(at.audit, 0o700)
}

func unpackOne(in io.Reader, path string) (one CopiedOne, err error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return one, err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return one, err
	}
	hash := sha256.New()
	one.Size, err = io.Copy(io.MultiWriter(f, hash), in)
	one.Hash = hex.EncodeToString(hash.Sum(nil))
	return one, errors.Join(err, f.Sync(), f.Close())
}

// finishRestore moves a restored state to its place if one waits. Each step looks at what is there, so that it may be stopped and
// begun again anywhere.
func finishRestore(conf Config) error {
	mark := filepath.Join(conf.State, ready)
	stamp, err := os.ReadFile(mark)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	at, err := conf.restored()
	if err != nil {
		return err
	}
	database, err := store.File(conf.dsn())
	if err != nil {
		return err
	}
	beside, within := filepath.Join(filepath.Dir(database), "replaced-"+string(stamp)), filepath.Join(conf.State, "replaced-"+string(stamp))
	// The log of the old database first: left beside the new one, SQLite would replay it there.
	for _, move := range []struct{ from, to, keep string }{
		{at.database, database + "-wal", beside}, {at.database, database + "-shm", beside}, {at.database, database, beside}, {at.audit, conf.auditDir(), within},
	} {
		if err := replace(move.from, move.to, move.keep, move.to == database || move.to == conf.auditDir()); err != nil {
			return fmt.Errorf("restore: %w", err)
		}
	}
	return errors.Join(syncPath(filepath.Dir(database)), syncPath(conf.State), os.Remove(mark), syncPath(conf.State))
}

// replace moves what is at to into the folder keep, and from, if it still waits, to its place.
func replace(from, to, keep string, move bool) error {
	if _, err := os.Lstat(from); errors.Is(err, fs.ErrNotExist) {
		return nil // done before
	}
	if _, err := os.Lstat(to); err == nil {
		if err := os.MkdirAll(keep, 0o700); err != nil {
			return err
		}
		if err := errors.Join(os.Rename(to, filepath.Join(keep, filepath.Base(to))), giveTo(filepath.Dir(keep), keep)); err != nil {
			return err
		}
	}
	if !move {
		return nil
	}
	return os.Rename(from, to)
}
