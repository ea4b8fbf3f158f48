// SPDX-License-Identifier: Apache-2.0

package release

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/klauspost/compress/zstd"
)

// A file on its way is one zstd frame for each block of the image, each behind a skippable frame that holds its length (RFC 8878,
// 3.1.2), as pzstd writes them. So a box needs memory for one block and what it is made from, however large the image is, and a full
// file opens with any zstd. In a delta's frame are the block's differences to the old image around it, from reach bytes before its place
// to reach bytes after it. An image whose parts keep their order and move by less than that loses nothing by it.
const (
	blockSize   = 8 << 20
	reach       = 8 << 20
	lengthMagic = 0x184D2A50
	lengthSize  = 12 // magic, 4, length of the frame
)

// ErrCorrupt is wrapped when bytes that a release names do not decode to its image.
var ErrCorrupt = errors.New("the file does not make the image of its release")

// shape is the sizes of a file's blocks and how hard to look for what they share; tests make them small and do not look hard.
type shape struct {
	block, reach int64
	level        zstd.EncoderLevel
}

func product() shape { return shape{blockSize, reach, zstd.SpeedBestCompression} }

// span is the part of an old image of this size that the block at an offset is made from.
func (s shape) span(at, size int64) (from, to int64) {
	return min(max(0, at-s.reach), size), min(at+s.block+s.reach, size)
}

// Encode writes the file that makes image, from base when it is not nil. The same input gives the same bytes. It needs some 200 MB and
// a second or two for each block.
func Encode(w io.Writer, image, base []byte) error { return product().encode(w, image, base) }

func (s shape) encode(w io.Writer, image, base []byte) error {
	encoder, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(s.level), zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(blockSize),
		zstd.WithEncoderCRC(false)) // the release's hash covers the whole
	if err != nil {
		return fmt.Errorf("encode release file: %w", err)
	}
	defer encoder.Close()
	for at := int64(0); at < int64(len(image)); at += s.block {
		content := image[at:min(at+s.block, int64(len(image)))]
		if base != nil {
			from, to := s.span(at, int64(len(base)))
			content = diff(content, base[from:to], int(at-from))
		}
		frame := encoder.EncodeAll(content, nil)
		head := binary.LittleEndian.AppendUint32(nil, lengthMagic)
		head = binary.LittleEndian.AppendUint32(head, 4)
		head = binary.LittleEndian.AppendUint32(head, uint32(len(frame)))
		for _, part := range [][]byte{head, frame} {
			if _, err := w.Write(part); err != nil {
				return fmt.Errorf("encode release file: %w", err)
			}
		}
	}
	return nil
}

// Decode makes the image of a file, from base if it is a delta, and holds it to its hash.
func Decode(file []byte, image Digest, base []byte) ([]byte, error) {
	var old io.ReaderAt
	if base != nil {
		old = bytes.NewReader(base)
	}
	out := make([]byte, 0, image.Size)
	err := product().decode(file, image.Size, old, int64(len(base)), func(block []byte) error {
		out = append(out, block...)
		return nil
	})
	if err == nil && sha256.Sum256(out) != image.SHA256 {
		err = fmt.Errorf("%w: another hash", ErrCorrupt)
	}
	return out, err
}

// decode hands the blocks of an image of this size to each, in order; a block is each's only until it returns. base is nil for a full
// file. No block is larger than the shape says, whatever the file holds.
func (s shape) decode(file []byte, size int64, base io.ReaderAt, baseSize int64, each func(block []byte) error) error {
	// A block's differences take what the block takes, and some bytes for each piece.
	decoder, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxMemory(uint64(2*s.block)))
	if err != nil {
		return fmt.Errorf("decode release file: %w", err)
	}
	defer decoder.Close()
	in := bytes.NewReader(file)
	var content, made, old []byte
	for at := int64(0); at < size; at += s.block {
		frame, err := nextFrame(in)
		if err != nil {
			return err
		}
		want := min(s.block, size-at)
		if content, err = decoder.DecodeAll(frame, content[:0]); err != nil {
			return fmt.Errorf("%w: %w", ErrCorrupt, err)
		}
		block := content
		if base != nil {
			from, to := s.span(at, baseSize)
			old = slices.Grow(old[:0], int(to-from))[:to-from]
			if _, err := io.ReadFull(io.NewSectionReader(base, from, to-from), old); err != nil {
				return fmt.Errorf("read the running slot: %w", err)
			}
			if made, err = patch(content, old, int(at-from), int(want), made); err != nil {
				return err
			}
			block = made
		}
		if int64(len(block)) != want {
			return fmt.Errorf("%w: a block of %d bytes, want %d", ErrCorrupt, len(block), want)
		}
		if err := each(block); err != nil {
			return err
		}
	}
	if in.Len() > 0 {
		return fmt.Errorf("%w: %d bytes after its end", ErrCorrupt, in.Len())
	}
	return nil
}

// nextFrame returns the next frame without the length before it.
func nextFrame(in *bytes.Reader) ([]byte, error) {
	var head [lengthSize]byte
	if _, err := io.ReadFull(in, head[:]); err != nil {
		return nil, fmt.Errorf("%w: it ends early", ErrCorrupt)
	}
	length := int64(binary.LittleEndian.Uint32(head[8:]))
	if binary.LittleEndian.Uint32(head[:]) != lengthMagic || binary.LittleEndian.Uint32(head[4:]) != 4 || length > int64(in.Len()) {
		return nil, fmt.Errorf("%w: no length of a frame", ErrCorrupt)
	}
	frame := make([]byte, length)
	_, err := io.ReadFull(in, frame)
	return frame, err
}
