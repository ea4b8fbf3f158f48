// SPDX-License-Identifier: Apache-2.0

package initramfs

import (
	"fmt"
	"io/fs"
	"path"
	"strings"

	"sdbox/image/packages"
)

// Where PID 1 looks for things.
const (
	agentPath   = "bin/sdbox-agent"
	pcscdPath   = "usr/sbin/pcscd"
	driversPath = "usr/lib/pcsc/drivers"
	modulesPath = "lib/modules"
	settings    = "etc/sdbox"
)

// The users of an SD-Box. None has a password or a shell; only their numbers have a meaning.
const (
	passwd = "root:x:0:0::/:\nagent:x:901:901::/:\ncard:x:902:902::/:\nnet:x:903:903::/:\n"
	group  = "root:x:0:\nagent:x:901:\ncard:x:902:\nnet:x:903:\n"
)

// Spec is what an initramfs is made of.
type Spec struct {
	Agent    []byte            // sdbox-agent: an ELF program for x86-64
	Profile  Profile           //
	Packages packages.Files    // what the packages of the lock hold; see Wants
	Release  string            // text of /etc/os-release
	Settings map[string][]byte // files of /etc/sdbox by name
}

// Wants says whether a file of a Debian package may be used by an initramfs: Spec.Packages needs no other.
func Wants(p string) bool {
	_, isModule := moduleName(p)
	return isModule || path.Base(p) == "modules.builtin" || p == pcscdPath || p == "etc/libccid_Info.plist" ||
		strings.HasPrefix(p, driversPath+"/ifd-ccid.bundle/") || strings.HasPrefix(p, "lib/firmware/") || strings.HasPrefix(p, "usr/lib/firmware/") ||
		path.Dir(strings.TrimPrefix(p, "usr/")) == libraries
}

// Build lays out the tree, and checks it.
func Build(s Spec) (Tree, error) {
	t := Tree{}
	t.folders(".")
	for _, p := range []string{"proc", "sys", "dev", "run", "tmp"} {
		t.folders(p)
	}
	t[console] = Entry{Mode: fs.ModeDevice | fs.ModeCharDevice | 0o600}
	t.link("init", "/"+agentPath, "")
	t.file("etc/passwd", 0o644, []byte(passwd), "")
	t.file("etc/group", 0o644, []byte(group), "")
	t.file("etc/os-release", 0o644, []byte(s.Release), "")
	for name, data := range s.Settings {
		t.file(path.Join(settings, name), 0o644, data, "")
	}
	for _, step := range []func(Spec) error{t.programs, t.modules, t.firmware} {
		if err := step(s); err != nil {
			return nil, fmt.Errorf("initramfs: %w", err)
		}
	}
	return t, t.Check()
}

// programs puts in the agent, the card daemon with its driver, and what they load.
func (t Tree) programs(s Spec) error {
	if err := t.program(agentPath, started, packages.File{Data: s.Agent}, s.Packages); err != nil {
		return err
	}
	pcscd, found := s.Packages[pcscdPath]
	if !found {
		return fmt.Errorf("%s: no package of the lock holds it", pcscdPath)
	}
	if err := t.program(pcscdPath, started, pcscd, s.Packages); err != nil {
		return err
	}
	for _, name := range opened() {
		if err := t.library(name, s.Packages); err != nil {
			return err
		}
	}
	return t.drivers(s.Packages)
}

// drivers puts in the bundle of the card readers' driver (pcscd looks for Contents/Info.plist and Contents/Linux/NAME.so below it).
func (t Tree) drivers(from packages.Files) error {
	bundles := 0
	for p, f := range from {
		if !strings.HasPrefix(p, driversPath+"/") {
			continue
		}
		real, found := from.Open(p)
		if !found {
			return fmt.Errorf("%s leads to %s, which no package of the lock holds", p, f.Link)
		}
		if !strings.HasSuffix(p, ".so") {
			t.file(p, 0o644, real.Data, f.Package)
			continue
		}
		bundles++
		if err := t.program(p, loaded, real, from); err != nil {
			return err
		}
	}
	if bundles == 0 {
		return fmt.Errorf("no package of the lock holds a driver for card readers")
	}
	return nil
}

// modules puts in the kernel modules and the file that says in which order, and with which parameters, PID 1 loads them.
func (t Tree) modules(s Spec) error {
	order, builtin, err := loadOrder(s.Profile.Modules, s.Packages)
	if err != nil {
		return err
	}
	unused := map[string]bool{}
	for name := range s.Profile.Parameters {
		unused[name] = !builtin[name]
	}
	var load strings.Builder
	for _, m := range order {
		t.file(path.Join(modulesPath, m.name+".ko"), 0o644, m.data, m.from)
		load.WriteString(strings.Join(append([]string{m.name + ".ko"}, s.Profile.Parameters[m.name]...), " ") + "\n")
		delete(unused, m.name)
	}
	for name, is := range unused {
		if is {
			return fmt.Errorf("profile %s: parameters for %s, which is not loaded", s.Profile.Name, name)
		}
	}
	t.file(path.Join(modulesPath, "load"), 0o644, []byte(load.String()), "")
	return nil
}

// firmware puts in the files the profile asks for.
func (t Tree) firmware(s Spec) error {
	for _, name := range s.Profile.Firmware {
		p := path.Join("lib/firmware", name)
		f, found := s.Packages.Open(p)
		if !found {
			return fmt.Errorf("profile %s: firmware %s: no package of the lock holds it", s.Profile.Name, name)
		}
		t.file(p, 0o644, f.Data, f.Package)
	}
	return nil
}
