// SPDX-License-Identifier: Apache-2.0

package release

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
)

// Why an installation ended. Only ErrCorrupt and ErrDisk come after the idle slot has been touched, which then cannot be booted; the
// running slot is whole in each case.
var (
	ErrTrial    = errors.New("the running system is still on trial")
	ErrGivenUp  = fmt.Errorf("this release has been tried %d times and never came to a commit", MaxTries)
	ErrTransfer = errors.New("the file is not the one that the release names")
	ErrBase     = errors.New("the running slot does not hold the image that the delta is from")
	ErrSize     = errors.New("the image does not fit the slot")
	ErrDisk     = errors.New("the slot does not hold what was written to it")
)

// headSize is the part of a slot that is written last: without its first sectors (boot sector, FSInfo, their copies) a FAT file system
// cannot be found, so no firmware starts from a slot that is half written, Secure Boot or not.
const headSize = 4096

// Install brings a release that was checked to the idle slot and arms it: the next start tries it once. from is the version that the
// file is a delta from, or "" for the full file; the file comes from in, and progress is told the bytes of the image that have been
// written and read back, of twice its size. The whole file is taken into memory (at most MaxTransfer) and compared with the signed
// hash before anything is decoded or written: no byte that is not signed reaches the decoder.
func (s *Slots) Install(r Release, from string, in io.Reader, progress func(done, total int64)) error {
	if err := s.install(r, from, in, progress); err != nil {
		return fmt.Errorf("install release %s: %w", r.Version, err)
	}
	return nil
}

func (s *Slots) install(r Release, from string, in io.Reader, progress func(done, total int64)) error {
	state, err := s.State()
	if err != nil {
		return err
	}
	tries := 1
	if state.Tried == r.Image.SHA256 {
		tries += state.Tries
	}
	source, base := r.Source(from)
	idle := state.Running.other()
	switch {
	case state.Trial:
		return ErrTrial
	case tries > MaxTries:
		return ErrGivenUp
	case from != "" && base.Size == 0:
		return fmt.Errorf("%w: no delta from %.64q", ErrTransfer, from)
	case r.Image.Size < headSize || r.Image.Size > s.disk.Partition(idle).Size || base.Size > s.disk.Partition(state.Running).Size:
		return fmt.Errorf("%w: %d bytes into %d", ErrSize, r.Image.Size, s.disk.Partition(idle).Size)
	}
	file, err := receive(in, source)
	if err != nil {
		return err
	}
	var old io.ReaderAt
	if base.Size > 0 {
		reader, closer, err := s.disk.Read(state.Running)
		if err != nil {
			return fmt.Errorf("open the running slot: %w", err)
		}
		defer closer.Close() // nothing was written to it
		if err := same(reader, base, nil, func(int64) {}); err != nil {
			return fmt.Errorf("%w: %w", ErrBase, err)
		}
		old = reader
	}
	if err := s.disarm(state.Running); err != nil {
		return err
	}
	if err := s.fill(idle, r.Image, file, old, base.Size, progress); err != nil {
		return err
	}
	return s.arm(idle, r.Image.SHA256, tries)
}

// receive takes exactly the named bytes.
func receive(in io.Reader, want Digest) ([]byte, error) {
	file := make([]byte, want.Size)
	if n, err := io.ReadFull(in, file); err != nil {
		return nil, fmt.Errorf("%w: %d of %d bytes: %w", ErrTransfer, n, want.Size, err)
	}
	if n, err := io.ReadFull(in, make([]byte, 1)); n > 0 {
		return nil, fmt.Errorf("%w: more than %d bytes", ErrTransfer, want.Size)
	} else if err != io.EOF {
		return nil, fmt.Errorf("%w: after its end: %w", ErrTransfer, err)
	}
	if sha256.Sum256(file) != want.SHA256 {
		return nil, fmt.Errorf("%w: another hash", ErrTransfer)
	}
	return file, nil
}

// fill writes the image into a slot: its head is made void, then comes all that follows it, and the head when that has been read back.
func (s *Slots) fill(slot Slot, image Digest, file []byte, old io.ReaderAt, oldSize int64, progress func(done, total int64)) error {
	store, err := s.disk.Write(slot)
	if err != nil {
		return fmt.Errorf("open the idle slot: %w", err)
	}
	head, err := s.write(store, image, file, old, oldSize, progress)
	if err == nil {
		err = same(store, image, head, func(done int64) { progress(image.Size+done, 2*image.Size) })
	}
	if err == nil {
		err = put(store, head, 0)
	}
	if err == nil {
		read := make([]byte, headSize)
		if _, err = store.ReadAt(read, 0); err == nil && !bytes.Equal(read, head) {
			err = fmt.Errorf("%w: its head", ErrDisk)
		}
	}
	return errors.Join(err, store.Close())
}

// write writes all but the head, which it returns.
func (s *Slots) write(store Store, image Digest, file []byte, old io.ReaderAt, oldSize int64, progress func(done, total int64)) ([]byte, error) {
	if err := put(store, make([]byte, headSize), 0); err != nil {
		return nil, err
	}
	var head []byte
	var at int64
	sum := sha256.New()
	err := s.shape.decode(file, image.Size, old, oldSize, func(block []byte) error {
		sum.Write(block)
		if at == 0 {
			head = bytes.Clone(block[:headSize])
			block = block[headSize:]
			at = headSize
		}
		if _, err := store.WriteAt(block, at); err != nil {
			return fmt.Errorf("write at %d: %w", at, err)
		}
		at += int64(len(block))
		progress(at, 2*image.Size)
		return nil
	})
	if err != nil {
		return nil, err
	}
	if [32]byte(sum.Sum(nil)) != image.SHA256 {
		return nil, fmt.Errorf("%w: another hash", ErrCorrupt)
	}
	if err := store.Sync(); err != nil {
		return nil, fmt.Errorf("write to the disk: %w", err)
	}
	return head, nil
}

// put writes bytes and has them on the disk.
func put(store Store, b []byte, at int64) error {
	if _, err := store.WriteAt(b, at); err != nil {
		return fmt.Errorf("write at %d: %w", at, err)
	}
	if err := store.Sync(); err != nil {
		return fmt.Errorf("write to the disk: %w", err)
	}
	return nil
}

// same reads a slot from the disk and compares it with an image, whose head may stand for what the slot holds there.
func same(store io.ReaderAt, image Digest, head []byte, progress func(done int64)) error {
	sum := sha256.New()
	sum.Write(head)
	chunk := make([]byte, 1<<20)
	for at := int64(len(head)); at < image.Size; {
		n, err := store.ReadAt(chunk[:min(int64(len(chunk)), image.Size-at)], at)
		if n == 0 {
			return fmt.Errorf("read at %d: %w", at, err)
		}
		sum.Write(chunk[:n])
		at += int64(n)
		progress(at)
	}
	if [32]byte(sum.Sum(nil)) != image.SHA256 {
		return fmt.Errorf("%w: another hash", ErrDisk)
	}
	return nil
}
