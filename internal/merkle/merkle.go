// SPDX-License-Identifier: Apache-2.0

// Package merkle keeps a transparency log in a folder: the hash tiles of an RFC 6962 tree in the layout of C2SP
// tlog-tiles, under a checkpoint signed as a C2SP note. Whoever holds the folder and the verifier key can check it alone.
package merkle

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"filippo.io/torchwood"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// Hash is the hash of a leaf, of a node or of the whole tree (RFC 6962, 2.1).
type Hash = [32]byte

// LeafHash is SHA-256(0x00 || leaf).
func LeafHash(leaf []byte) Hash { return Hash(tlog.RecordHash(leaf)) }

// checkpointFile is the name of the signed tree head in the folder (C2SP tlog-tiles).
const checkpointFile = "checkpoint"

// ErrDamaged says that tiles or checkpoint do not fit together or are not signed by the key.
var ErrDamaged = errors.New("the sealed log is damaged")

// GenerateKey makes an Ed25519 key for a log of this name, for example "gw1.lab/audit". Secret and verifier key are one
// line of text each, in the form of golang.org/x/mod/sumdb/note.
func GenerateKey(name string) (secret, verifier string, err error) {
	if !regexp.MustCompile(`^[a-z0-9][a-z0-9./-]{0,200}$`).MatchString(name) {
		return "", "", fmt.Errorf("log name %.60q: want lower-case letters, digits, dots, slashes and hyphens", name)
	}
	if secret, verifier, err = note.GenerateKey(rand.Reader, name); err != nil {
		return "", "", fmt.Errorf("log key: %w", err)
	}
	return secret, verifier, nil
}

// VerifierKey returns the verifier key that belongs to a secret one.
func VerifierKey(secret string) (string, error) {
	signer, err := note.NewSigner(secret)
	if err != nil {
		return "", fmt.Errorf("log key: %w", err)
	}
	// NewSigner checked the form: PRIVATE+KEY+NAME+HASH+BASE64, the last being the algorithm's byte and the seed.
	parts := strings.SplitN(secret, "+", 5)
	seed, err := base64.StdEncoding.DecodeString(parts[len(parts)-1])
	if err != nil || len(seed) != 1+ed25519.SeedSize {
		return "", errors.New("log key: want an Ed25519 key")
	}
	public, ok := ed25519.NewKeyFromSeed(seed[1:]).Public().(ed25519.PublicKey)
	if !ok {
		return "", errors.New("log key: want an Ed25519 key")
	}
	return note.NewEd25519VerifierKey(signer.Name(), public)
}

// Log is the writing side of a folder. It is not safe for concurrent use: its owner is one goroutine.
type Log struct {
	dir    string
	signer note.Signer
	head   torchwood.Checkpoint
	signed []byte
}

// Open reads the log in dir, or begins an empty one. The checkpoint found must be signed by the same key.
func Open(dir, secret string) (*Log, error) {
	signer, err := note.NewSigner(secret)
	if err != nil {
		return nil, fmt.Errorf("log key: %w", err)
	}
	l := &Log{dir: dir, signer: signer, head: torchwood.Checkpoint{Origin: signer.Name()}}
	signed, err := readFile(os.DirFS(dir), checkpointFile, 1<<16)
	if errors.Is(err, fs.ErrNotExist) {
		return l, os.MkdirAll(dir, 0o700)
	}
	if err != nil {
		return nil, fmt.Errorf("checkpoint: %w", err)
	}
	verifier, err := torchwood.NewVerifierFromSigner(secret)
	if err != nil {
		return nil, fmt.Errorf("log key: %w", err)
	}
	l.signed = signed
	l.head, err = openCheckpoint(signed, verifier)
	return l, err
}

func openCheckpoint(signed []byte, v note.Verifier) (torchwood.Checkpoint, error) {
	n, err := note.Open(signed, note.VerifierList(v))
	if err != nil {
		return torchwood.Checkpoint{}, fmt.Errorf("checkpoint: %w: %w", ErrDamaged, err)
	}
	c, err := torchwood.ParseCheckpoint(n.Text)
	if err != nil || c.Origin != v.Name() {
		return torchwood.Checkpoint{}, fmt.Errorf("checkpoint of %.60q: %w: want one of %s", c.Origin, ErrDamaged, v.Name())
	}
	return c, nil
}

// Size is the number of leaves sealed.
func (l *Log) Size() int64 { return l.head.N }

// Checkpoint is the signed tree head, nil while nothing is sealed.
func (l *Log) Checkpoint() []byte { return l.signed }

// Leaf returns the hash of a sealed leaf, checked against the checkpoint.
func (l *Log) Leaf(n int64) (Hash, error) {
	if n < 0 || n >= l.head.N {
		return Hash{}, fmt.Errorf("leaf %d of %d", n, l.head.N)
	}
	hashes, err := l.reader().ReadHashes([]int64{tlog.StoredHashIndex(0, n)})
	if err != nil {
		return Hash{}, fmt.Errorf("leaf %d: %w: %w", n, ErrDamaged, err)
	}
	return Hash(hashes[0]), nil
}

func (l *Log) reader() tlog.HashReader {
	if l.head.N == 0 {
		return tlog.HashReaderFunc(func([]int64) ([]tlog.Hash, error) { return nil, errors.New("the log is empty") })
	}
	return tlog.TileHashReader(l.head.Tree, tiles{os.DirFS(l.dir)})
}

// Append seals leaves after those already sealed. The tiles are on the disk before the checkpoint that covers them, and
// the checkpoint is on the disk on return: whatever stops it, the old checkpoint or the new one stands, and both verify.
func (l *Log) Append(leaves ...[]byte) error {
	if len(leaves) == 0 {
		return nil
	}
	fresh := map[int64]tlog.Hash{}
	old := l.reader()
	reader := tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) { return readThrough(fresh, old, indexes) })
	size := l.head.N
	for _, leaf := range leaves {
		stored, err := tlog.StoredHashes(size, leaf, reader)
		if err != nil {
			return fmt.Errorf("seal leaf %d: %w", size, err)
		}
		first := tlog.StoredHashIndex(0, size)
		for i, h := range stored {
			fresh[first+int64(i)] = h
		}
		size++
	}
	for _, t := range tlog.NewTiles(torchwood.TileHeight, l.head.N, size) {
		data, err := tlog.ReadTileData(t, reader)
		if err != nil {
			return fmt.Errorf("seal tile %s: %w", torchwood.TilePath(t), err)
		}
		if err := writeFile(filepath.Join(l.dir, torchwood.TilePath(t)), data); err != nil {
			return fmt.Errorf("seal: %w", err)
		}
	}
	root, err := tlog.TreeHash(size, reader)
	if err != nil {
		return fmt.Errorf("seal %d leaves: %w", size, err)
	}
	head := torchwood.Checkpoint{Origin: l.head.Origin, Tree: tlog.Tree{N: size, Hash: root}}
	signed, err := note.Sign(&note.Note{Text: head.String()}, l.signer)
	if err != nil {
		return fmt.Errorf("sign checkpoint: %w", err)
	}
	if err := writeFile(filepath.Join(l.dir, checkpointFile), signed); err != nil {
		return fmt.Errorf("seal: %w", err)
	}
	before := l.head.Tree
	l.head, l.signed = head, signed
	return l.prune(before)
}

// prune removes the partial tiles the new checkpoint no longer needs, else each append would leave some for ever.
func (l *Log) prune(before tlog.Tree) error {
	needed := map[string]bool{}
	for _, t := range tlog.NewTiles(torchwood.TileHeight, 0, l.head.N) {
		needed[torchwood.TilePath(t)] = true
	}
	for _, t := range tlog.NewTiles(torchwood.TileHeight, 0, before.N) {
		path := torchwood.TilePath(t)
		if t.W == torchwood.TileWidth || needed[path] {
			continue
		}
		if err := os.Remove(filepath.Join(l.dir, path)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove an old tile: %w", err)
		}
	}
	return nil
}

func readThrough(fresh map[int64]tlog.Hash, old tlog.HashReader, indexes []int64) ([]tlog.Hash, error) {
	hashes := make([]tlog.Hash, len(indexes))
	var missing []int64
	for i, index := range indexes {
		h, found := fresh[index]
		if !found {
			missing = append(missing, index)
		}
		hashes[i] = h
	}
	if len(missing) == 0 {
		return hashes, nil
	}
	stored, err := old.ReadHashes(missing)
	if err != nil {
		return nil, err
	}
	for i, index := range indexes {
		if _, found := fresh[index]; !found {
			hashes[i], stored = stored[0], stored[1:]
		}
	}
	return hashes, nil
}

// tiles reads hash tiles of a folder for tlog.
type tiles struct{ files fs.FS }

func (t tiles) Height() int { return torchwood.TileHeight }

func (t tiles) ReadTiles(want []tlog.Tile) ([][]byte, error) {
	data := make([][]byte, len(want))
	for i, tile := range want {
		var err error
		if data[i], err = readFile(t.files, torchwood.TilePath(tile), torchwood.TileWidth*tlog.HashSize); err != nil {
			return nil, err
		}
		if len(data[i]) != tile.W*tlog.HashSize {
			return nil, fmt.Errorf("%s has %d bytes: want %d", torchwood.TilePath(tile), len(data[i]), tile.W*tlog.HashSize)
		}
	}
	return data, nil
}

func (t tiles) SaveTiles([]tlog.Tile, [][]byte) {}

func readFile(files fs.FS, name string, limit int64) ([]byte, error) {
	f, err := files.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close() // only read from
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(data)) > limit {
		err = fmt.Errorf("%s: more than %d bytes", name, limit)
	}
	return data, err
}

// writeFile replaces a file: temporary file, sync, rename, sync of the folder.
func writeFile(path string, data []byte) error {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, ".new-*")
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if closed := f.Close(); err == nil {
		err = closed
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
