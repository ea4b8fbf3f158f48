// SPDX-License-Identifier: Apache-2.0

package merkle

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"filippo.io/torchwood"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// Sealed is the checking side of a folder: what the checkpoint covers, every tile checked against it.
type Sealed struct {
	Origin string
	Root   Hash
	Leaves []Hash // in order
}

// maxLeaves bounds what Read holds in memory: 16 million leaves are 512 MB.
const maxLeaves = 16 << 20

// Read checks the folder against a verifier key. Damage of checkpoint or tiles wraps ErrDamaged.
func Read(files fs.FS, verifier string) (*Sealed, error) {
	v, err := note.NewVerifier(verifier)
	if err != nil {
		return nil, fmt.Errorf("verifier key: %w", err)
	}
	signed, err := readFile(files, checkpointFile, 1<<16)
	if err != nil {
		return nil, fmt.Errorf("checkpoint: %w: %w", ErrDamaged, err)
	}
	head, err := openCheckpoint(signed, v)
	if err != nil {
		return nil, err
	}
	if head.N > maxLeaves {
		return nil, fmt.Errorf("checkpoint over %d leaves: at most %d", head.N, maxLeaves)
	}
	s := &Sealed{Origin: head.Origin, Root: Hash(head.Hash)}
	if head.N == 0 {
		return s, nil
	}
	reader := tlog.TileHashReader(head.Tree, tiles{files})
	for first := int64(0); first < head.N; first += torchwood.TileWidth {
		var indexes []int64
		for n := first; n < min(first+torchwood.TileWidth, head.N); n++ {
			indexes = append(indexes, tlog.StoredHashIndex(0, n))
		}
		hashes, err := reader.ReadHashes(indexes)
		if err != nil {
			return nil, fmt.Errorf("tiles: %w: %w", ErrDamaged, err)
		}
		for _, h := range hashes {
			s.Leaves = append(s.Leaves, Hash(h))
		}
	}
	return s, nil
}

// Extends checks that an older checkpoint of the same log, which someone kept, is a beginning of this one: a log that was
// cut back and sealed again with the stolen key does not pass it.
func (s *Sealed) Extends(signed []byte, verifier string) error {
	v, err := note.NewVerifier(verifier)
	if err != nil {
		return fmt.Errorf("verifier key: %w", err)
	}
	old, err := openCheckpoint(signed, v)
	if err != nil {
		return err
	}
	if old.N > int64(len(s.Leaves)) {
		return fmt.Errorf("the checkpoint kept covers %d leaves, this log has %d: %w", old.N, len(s.Leaves), ErrDamaged)
	}
	if RootOf(s.Leaves[:old.N]) != Hash(old.Hash) {
		return fmt.Errorf("the first %d leaves are not those of the checkpoint kept: %w", old.N, ErrDamaged)
	}
	return nil
}

// RootOf computes the tree hash over leaf hashes (RFC 6962, 2.1), from nothing but them.
func RootOf(leaves []Hash) Hash {
	if len(leaves) == 0 {
		empty, err := tlog.TreeHash(0, nil)
		if err != nil {
			panic("merkle: the empty tree has a hash: " + err.Error())
		}
		return Hash(empty)
	}
	if len(leaves) == 1 {
		return leaves[0]
	}
	k := 1
	for k*2 < len(leaves) {
		k *= 2
	}
	return Hash(tlog.NodeHash(tlog.Hash(RootOf(leaves[:k])), tlog.Hash(RootOf(leaves[k:]))))
}

// Copy writes what the checkpoint covers, checkpoint and tiles, into another folder.
func (l *Log) Copy(dir string) error {
	if l.signed == nil {
		return errors.New("nothing is sealed yet")
	}
	for _, t := range tlog.NewTiles(torchwood.TileHeight, 0, l.head.N) {
		path := torchwood.TilePath(t)
		data, err := readFile(os.DirFS(l.dir), path, torchwood.TileWidth*tlog.HashSize)
		if err != nil {
			return fmt.Errorf("copy the sealed log: %w", err)
		}
		if err := writeFile(filepath.Join(dir, path), data); err != nil {
			return fmt.Errorf("copy the sealed log: %w", err)
		}
	}
	if err := writeFile(filepath.Join(dir, checkpointFile), l.signed); err != nil {
		return fmt.Errorf("copy the sealed log: %w", err)
	}
	return nil
}
