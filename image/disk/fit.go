// SPDX-License-Identifier: Apache-2.0

package disk

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
)

// Put writes a disk's image, as Build makes it, onto a disk that is at least as large, in bytes, and makes the partition table fit it:
// the copy of the table belongs at the very end of a disk (UEFI 2.10, 5.3.2). What lay on the disk is lost. On return all of it has
// reached the disk.
func Put(image io.ReaderAt, to *os.File, size int64) error {
	if size < Size || size%sector != 0 {
		return fmt.Errorf("write disk: %d bytes, want at least %d", size, int64(Size))
	}
	if _, err := Partitions(image); err != nil {
		return err
	}
	if _, err := io.Copy(io.NewOffsetWriter(to, 0), io.NewSectionReader(image, 0, Size-last)); err != nil {
		return fmt.Errorf("write disk: %w", err)
	}
	// Where the image's own copy would be, and where this disk's will be: nothing older may look like one.
	for _, at := range []int64{Size - last, size - last} {
		if _, err := to.WriteAt(make([]byte, last), at); err != nil {
			return fmt.Errorf("write disk: %w", err)
		}
	}
	if err := table().Write(to, size); err != nil {
		return fmt.Errorf("write disk: partition table: %w", err)
	}
	return to.Sync()
}

// Same says whether a disk of this size holds the image: the partitions byte by byte, and both partition tables.
func Same(image, disk io.ReaderAt, size int64) error {
	f, err := memory("table", size)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := table().Write(f, size); err != nil {
		return err
	}
	for _, part := range []struct {
		what     string
		want     io.ReaderAt
		at, size int64
	}{{"partition table", f, 0, first}, {"partitions", image, first, Size - first - last}, {"copy of the partition table", f, size - last, last}} {
		if err := equal(io.NewSectionReader(part.want, part.at, part.size), io.NewSectionReader(disk, part.at, part.size)); err != nil {
			return fmt.Errorf("read disk back: %s: %w", part.what, err)
		}
	}
	return nil
}

func equal(want, got io.Reader) error {
	const step = 1 << 20
	a, b := make([]byte, step), make([]byte, step)
	for at := 0; ; at += step {
		n, err := io.ReadFull(want, a)
		m, again := io.ReadFull(got, b)
		if n != m || !bytes.Equal(a[:n], b[:m]) {
			return fmt.Errorf("other bytes than were written, from %d on", at)
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return nil
		}
		if err = cmp.Or(err, again); err != nil {
			return err
		}
	}
}
