// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"os"

	"sdbox/image/disk"
	"sdbox/image/uki"
)

// readImage reads an image, from its file or from the disk it lies on. Its bytes may come from anyone.
func readImage(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	switch {
	case info.Size() == disk.Size:
		parts, err := disk.Partitions(f)
		if err != nil {
			return nil, err
		}
		return disk.UKI(parts[0])
	case info.Size() > uki.MaxSize:
		return nil, &hintError{fmt.Errorf("%s: %d bytes: neither an image nor a disk", path, info.Size()), "name the sdbox.efi or the sdbox.img that sdbox-image build made"}
	}
	return io.ReadAll(f)
}
