// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"sdbox/gateway/audit"
	"sdbox/gateway/store"
	"sdbox/internal/ident"
	"sdbox/internal/merkle"
)

// What a backup holds: the database as a file, the sealed audit log below a folder, and last of all the list of them, so that half a
// file is no backup. Keys are not in it.
const (
	databaseEntry = "gateway.db"
	auditFolder   = "audit"
	listEntry     = "backup.json"
	backupFormat  = 1
)

// Copied says what is in a backup.
type Copied struct {
	Format  int                  `json:"format"`
	Domain  ident.Domain         `json:"domain"`
	Gateway string               `json:"gateway"`
	Made    time.Time            `json:"made"`
	Rows    int64                `json:"rows"` // of the audit log
	Files   map[string]CopiedOne `json:"files"`
}

// CopiedOne is one file of a backup.
type CopiedOne struct {
	Size int64  `json:"size"`
	Hash string `json:"sha256"`
}

// dsn is the data source name of the database.
func (c Config) dsn() string {
	if c.Database == "" {
		return "sqlite:" + filepath.Join(c.State, databaseEntry)
	}
	return c.Database
}

// auditDir is where the sealed audit log lies.
func (c Config) auditDir() string { return filepath.Join(c.State, auditFolder) }

// logKey reads the audit log's key and returns it, and the verifier key that belongs to it.
func (c Config) logKey() (secret, verifier string, err error) {
	text, err := os.ReadFile(c.AuditKey)
	if err != nil {
		return "", "", fmt.Errorf("audit key: %w", err)
	}
	secret = strings.TrimSpace(string(text))
	verifier, err = merkle.VerifierKey(secret)
	return secret, verifier, err
}

// Backup copies the state of a gateway, which may run, into a new file of mode 0600: the database as it is at one moment, and the
// sealed audit log that belongs to it. The copy is checked before the file gets its name; a file that is there is not written over.
func Backup(ctx context.Context, conf Config, file string) (Copied, error) {
	c, err := backup(ctx, conf, file)
	if err != nil {
		return Copied{}, fmt.Errorf("backup: %w", err)
	}
	return c, nil
}

func backup(ctx context.Context, conf Config, file string) (c Copied, err error) {
	if _, err := os.Lstat(file); err == nil {
		return c, fmt.Errorf("%s: %w", file, fs.ErrExist)
	}
	dir, err := os.MkdirTemp(filepath.Dir(file), ".backup-")
	if err != nil {
		return c, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	secret, verifier, err := conf.logKey()
	if err != nil {
		return c, err
	}
	// First the seals, then the database: the rows of a later moment cover all that was sealed at an earlier one.
	if err := copySealed(conf.auditDir(), secret, filepath.Join(dir, auditFolder)); err != nil {
		return c, err
	}
	if err := store.Snapshot(ctx, conf.dsn(), filepath.Join(dir, databaseEntry)); err != nil {
		return c, err
	}
	c = Copied{Format: backupFormat, Domain: conf.Domain, Gateway: conf.Name, Made: time.Now().UTC().Truncate(time.Second), Files: map[string]CopiedOne{}}
	if c.Rows, err = inspect(ctx, filepath.Join(dir, databaseEntry), filepath.Join(dir, auditFolder), verifier); err != nil {
		return c, err
	}
	packed := filepath.Join(dir, "packed")
	if err := pack(packed, dir, &c); err != nil {
		return c, err
	}
	if err := os.Link(packed, file); err != nil { // unlike a rename it never replaces what came there meanwhile
		return c, err
	}
	return c, syncPath(filepath.Dir(file))
}

// sealedTries is how often a sealed log that grows while it is copied is begun again: each seal takes old tiles away.
const sealedTries = 20

func copySealed(from, secret, to string) error {
	if _, err := os.Stat(filepath.Join(from, "checkpoint")); errors.Is(err, fs.ErrNotExist) {
		return os.Mkdir(to, 0o700) // nothing was sealed yet
	}
	for try := 1; ; try++ {
		log, err := merkle.Open(from, secret)
		if err == nil {
			err = log.Copy(to)
		}
		if err == nil || try == sealedTries || !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err := os.RemoveAll(to); err != nil {
			return err
		}
	}
}

// inspect opens a copy of a database and compares it with its sealed log. It brings the copy to this program's schema, as New would.
func inspect(ctx context.Context, database, sealed, verifier string) (rows int64, err error) {
	s, err := store.Open(ctx, "sqlite:"+database)
	if err != nil {
		return 0, err
	}
	rows, err = audit.Compare(ctx, s, sealed, verifier)
	return rows, errors.Join(err, s.Close())
}

// pack writes the files below dir, and their list, into a new file that is on the disk on return.
func pack(into, dir string, c *Copied) (err error) {
	f, err := os.OpenFile(into, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	out := tar.NewWriter(f)
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || path == into {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		if name != databaseEntry && !partName.MatchString(name) {
			return fmt.Errorf("%s lies in the copy and is no part of it", name)
		}
		one, err := packOne(out, path, name)
		c.Files[name] = one
		return err
	})
	if err != nil {
		return err
	}
	list, err := json.MarshalIndent(c, "", "  ")
	if err != nil {
		return err
	}
	if err := out.WriteHeader(&tar.Header{Name: listEntry, Mode: 0o600, Size: int64(len(list)), ModTime: c.Made}); err != nil {
		return err
	}
	if _, err := out.Write(list); err != nil {
		return err
	}
	return errors.Join(out.Close(), f.Sync())
}

func packOne(out *tar.Writer, path, name string) (one CopiedOne, err error) {
	f, err := os.Open(path)
	if err != nil {
		return one, err
	}
	defer f.Close() // only read from
	info, err := f.Stat()
	if err != nil {
		return one, err
	}
	if err := out.WriteHeader(&tar.Header{Name: name, Mode: 0o600, Size: info.Size(), ModTime: info.ModTime().UTC()}); err != nil {
		return one, err
	}
	hash := sha256.New()
	one.Size, err = io.Copy(io.MultiWriter(out, hash), f)
	one.Hash = hex.EncodeToString(hash.Sum(nil))
	return one, err
}

// syncFolders puts the names in a folder, and in all below it, on the disk.
func syncFolders(path string) error {
	return filepath.WalkDir(path, func(p string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return err
		}
		return syncPath(p)
	})
}

// syncPath puts a file, or a folder's names, on the disk.
func syncPath(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
