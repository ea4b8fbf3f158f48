// SPDX-License-Identifier: Apache-2.0

package initramfs

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"

	"sdbox/image/packages"
)

// Where libraries stand in the image. The loader looks in libraries without being told (ld.so(8)).
const (
	libraries = "lib/x86_64-linux-gnu"
	loader    = "lib64/ld-linux-x86-64.so.2"
)

// opened are libraries that a program opens while it runs, so that nothing in its file names them: glibc ends a thread with the help of
// libgcc_s, without which pcscd aborts when its first client leaves.
func opened() []string { return []string{"libgcc_s.so.1"} }

// program puts an executable or a driver into the tree, with everything it and its libraries need (DT_NEEDED, PT_INTERP; ELF gABI,
// chapter 5).
func (t Tree) program(p string, mode fs.FileMode, file packages.File, from packages.Files) error {
	t.file(p, mode, file.Data, file.Package)
	needs, err := needed(file.Data)
	if err != nil {
		return fmt.Errorf("%s: %w", p, err)
	}
	for _, name := range needs {
		if err := t.library(name, from); err != nil {
			return fmt.Errorf("%s: %w", p, err)
		}
	}
	return nil
}

// What an ELF file is for: to be started, or to be loaded by one that is.
const (
	started fs.FileMode = 0o755
	loaded  fs.FileMode = 0o644
)

// library puts one library in by the name others know it by, once.
func (t Tree) library(name string, from packages.Files) error {
	p, mode := path.Join(libraries, name), loaded
	if name == path.Base(loader) {
		p, mode = loader, started // the kernel starts it
	}
	if _, there := t[p]; there {
		return nil
	}
	file, found := from.Open(path.Join(libraries, name))
	if !found {
		return fmt.Errorf("%s: no package of the lock holds it", name)
	}
	return t.program(p, mode, file, from)
}

// needed reads what an ELF file wants loaded: its libraries and its loader.
func needed(data []byte) ([]string, error) {
	f, err := elf.NewFile(bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	if f.Machine != elf.EM_X86_64 || f.Class != elf.ELFCLASS64 {
		return nil, errors.New("not made for x86-64")
	}
	names, err := f.ImportedLibraries()
	if err != nil {
		return nil, err
	}
	for _, prog := range f.Progs {
		if prog.Type != elf.PT_INTERP {
			continue
		}
		interp, err := io.ReadAll(io.LimitReader(prog.Open(), 256))
		if err != nil {
			return nil, err
		}
		if name := strings.TrimRight(string(interp), "\x00"); name != "/"+loader {
			return nil, fmt.Errorf("its loader %q is not the image's", name)
		}
		names = append(names, path.Base(loader))
	}
	return names, nil
}
