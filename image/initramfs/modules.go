// SPDX-License-Identifier: Apache-2.0

package initramfs

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	"sdbox/image/packages"

	"github.com/ulikunitz/xz"
)

// maxModule is the largest kernel module taken, in bytes: amdgpu has 29 MB.
const maxModule = 64 << 20

// module is one kernel module as it goes into the image: decompressed, with the signature at its end.
type module struct {
	name string
	data []byte
	from string
}

// loadOrder returns the modules wanted and all they depend on, each after what it needs, otherwise in the order wanted. What is built
// into the kernel is left out.
func loadOrder(wanted []string, kernel packages.Files) (out []module, builtin map[string]bool, err error) {
	files, builtin, err := catalogue(kernel)
	if err != nil {
		return nil, nil, err
	}
	seen := map[string]bool{}
	var add func(name string, trail []string) error
	add = func(name string, trail []string) error {
		if slices.Contains(trail, name) {
			return fmt.Errorf("module %s needs itself: %s", name, strings.Join(trail, " "))
		}
		if seen[name] || builtin[name] {
			return nil
		}
		p, found := files[name]
		if !found {
			return fmt.Errorf("module %s: the kernel has none (needed by: %s)", name, strings.Join(append([]string{"the profile"}, trail...), " "))
		}
		data, err := unpackModule(p, kernel[p].Data)
		if err != nil {
			return err
		}
		needs, err := depends(data)
		if err != nil {
			return fmt.Errorf("module %s: %w", name, err)
		}
		for _, n := range needs {
			if err := add(n, append(trail, name)); err != nil {
				return err
			}
		}
		seen[name] = true
		out = append(out, module{name, data, kernel[p].Package})
		return nil
	}
	for _, name := range wanted {
		if err := add(fold(name), nil); err != nil {
			return nil, nil, err
		}
	}
	return out, builtin, nil
}

// catalogue lists the kernel's modules by their folded names: those in files, and those built in.
func catalogue(kernel packages.Files) (files map[string]string, builtin map[string]bool, err error) {
	files, builtin = map[string]string{}, map[string]bool{}
	for p, f := range kernel {
		if name, ok := moduleName(p); ok {
			if other, twice := files[name]; twice {
				return nil, nil, fmt.Errorf("two modules of one name: %s, %s", other, p)
			}
			files[name] = p
		}
		if path.Base(p) == "modules.builtin" {
			for line := range strings.Lines(string(f.Data)) {
				if name, ok := moduleName(strings.TrimSpace(line)); ok {
					builtin[name] = true
				}
			}
		}
	}
	if len(files)+len(builtin) == 0 {
		return nil, nil, errors.New("no kernel modules in the packages of the lock")
	}
	return files, builtin, nil
}

// moduleName is the folded name of a module's file.
func moduleName(p string) (string, bool) {
	base := strings.TrimSuffix(path.Base(p), ".xz")
	name, ok := strings.CutSuffix(base, ".ko")
	return fold(name), ok
}

// fold writes a module's name as the kernel compares it: "-" and "_" are the same.
func fold(name string) string { return strings.ReplaceAll(name, "-", "_") }

func unpackModule(p string, data []byte) ([]byte, error) {
	if !strings.HasSuffix(p, ".xz") {
		return data, nil
	}
	r, err := xz.NewReader(bytes.NewReader(data))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", p, err)
	}
	out, err := io.ReadAll(io.LimitReader(r, maxModule+1))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", p, err)
	}
	if len(out) > maxModule {
		return nil, fmt.Errorf("%s: over %d bytes", p, maxModule)
	}
	return out, nil
}

// depends reads what a module says it needs, from its .modinfo section (include/linux/module.h, MODULE_INFO): "depends=a,b", and
// what should be there first, "softdep=pre: a b post: c".
func depends(data []byte) ([]string, error) {
	f, err := elf.NewFile(bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	section := f.Section(".modinfo")
	if section == nil {
		return nil, fmt.Errorf("no .modinfo")
	}
	info, err := section.Data()
	if err != nil {
		return nil, err
	}
	var out []string
	for item := range strings.SplitSeq(string(info), "\x00") {
		key, value, _ := strings.Cut(item, "=")
		switch key {
		case "depends":
			out = append(out, strings.FieldsFunc(value, func(r rune) bool { return r == ',' })...)
		case "softdep":
			before, _, _ := strings.Cut(value, "post:")
			if names, ok := strings.CutPrefix(strings.TrimSpace(before), "pre:"); ok {
				out = append(out, strings.Fields(names)...)
			}
		}
	}
	for i := range out {
		out[i] = fold(out[i])
	}
	return out, nil
}
