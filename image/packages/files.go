// SPDX-License-Identifier: Apache-2.0

package packages

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"path"
	"strings"
)

// File is one file of a package.
type File struct {
	Data    []byte
	Link    string // where a symbolic link points, else ""
	Package string // the package's name
}

// Files are files of packages by their path from the root, without a slash before it. What Debian packages hold in /lib and in /usr/lib
// are one folder on the running system; here each stands where its package has it, and Open looks in both.
type Files map[string]File

// maxFile and maxFiles bound what is taken out of packages: the largest file of an image is its kernel, of some 12 MB.
const (
	maxFile  = 64 << 20
	maxFiles = 20000
)

// Unpack reads the regular files and links for which keep says yes out of a .deb into f.
func (f Files) Unpack(ctx context.Context, name, deb string, keep func(path string) bool) error {
	c := exec.CommandContext(ctx, "dpkg-deb", "--fsys-tarfile", deb)
	out, err := c.StdoutPipe()
	if err != nil {
		return err
	}
	if err := c.Start(); err != nil {
		return fmt.Errorf("unpack %s: %w", name, err)
	}
	err = f.read(name, tar.NewReader(out), keep)
	if err != nil {
		out.Close() // dpkg-deb ends at its next write
	}
	if waited := c.Wait(); err == nil {
		err = waited
	}
	if err != nil {
		return fmt.Errorf("unpack %s: %w", name, err)
	}
	return nil
}

func (f Files) read(name string, t *tar.Reader, keep func(path string) bool) error {
	for {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		p := strings.TrimPrefix(path.Clean("/"+h.Name), "/")
		if !keep(p) {
			continue
		}
		file := File{Package: name}
		switch h.Typeflag {
		case tar.TypeReg:
			if h.Size > maxFile {
				return fmt.Errorf("%s: over %d bytes", p, maxFile)
			}
			if file.Data, err = io.ReadAll(t); err != nil {
				return fmt.Errorf("%s: %w", p, err)
			}
		case tar.TypeSymlink:
			file.Link = h.Linkname
		default:
			continue
		}
		if f[p] = file; len(f) > maxFiles {
			return fmt.Errorf("over %d files", maxFiles)
		}
	}
}

// Open returns the regular file at a path, through links and through /usr where Debian merged the two.
func (f Files) Open(p string) (File, bool) {
	for range 10 {
		file, found := f[p]
		if !found {
			if rest, usr := strings.CutPrefix(p, "usr/"); usr {
				file, found = f[rest]
			} else {
				file, found = f["usr/"+p]
			}
		}
		if !found || file.Link == "" {
			return file, found
		}
		if path.IsAbs(file.Link) {
			p = strings.TrimPrefix(path.Clean(file.Link), "/")
		} else {
			p = strings.TrimPrefix(path.Join("/", path.Dir(p), file.Link), "/")
		}
	}
	return File{}, false
}
