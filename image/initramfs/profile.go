// SPDX-License-Identifier: Apache-2.0

package initramfs

import (
	"bytes"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"
)

//go:embed profile/*.toml
var profiles embed.FS

// Profile is what a kind of machine needs from the image.
type Profile struct {
	Name       string              `toml:"-"`
	About      string              `toml:"about"`      // one sentence, for people
	Modules    []string            `toml:"modules"`    // wanted kernel modules, in the order they are to be loaded; what they need is found
	Parameters map[string][]string `toml:"parameters"` // of modules, by name
	Firmware   []string            `toml:"firmware"`   // files below /lib/firmware of a package of the lock
	Hubs       bool                `toml:"hubs"`       // whether USB hubs are let in
}

var moduleForm = regexp.MustCompile(`^[A-Za-z0-9_-]{1,56}$`) // MODULE_NAME_LEN of the kernel

// ReadProfile returns the profile of this name.
func ReadProfile(name string) (Profile, error) {
	text, err := profiles.ReadFile("profile/" + name + ".toml")
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrInvalid) {
		return Profile{}, fmt.Errorf("no profile %q; there is: %s", name, strings.Join(ProfileNames(), ", "))
	}
	if err != nil {
		return Profile{}, err
	}
	p := Profile{Name: name}
	if err := toml.NewDecoder(bytes.NewReader(text)).DisallowUnknownFields().Decode(&p); err != nil {
		return p, fmt.Errorf("profile %s: %w", name, err)
	}
	return p, p.check()
}

func (p Profile) check() error {
	for _, m := range p.Modules {
		if !moduleForm.MatchString(m) {
			return fmt.Errorf("profile %s: %q is no module", p.Name, m)
		}
	}
	for m, values := range p.Parameters {
		for _, v := range values {
			if fold(m) != m || strings.ContainsAny(v, " \n\x00") || !strings.Contains(v, "=") {
				return fmt.Errorf("profile %s: parameter %q of module %s: want NAME=VALUE, and the module's name with _", p.Name, v, m)
			}
		}
	}
	for _, f := range p.Firmware {
		if !fs.ValidPath(f) {
			return fmt.Errorf("profile %s: firmware %q is no path", p.Name, f)
		}
	}
	return nil
}

// Words are the parameters as the kernel's command line takes them for what is built in. A module that is loaded sees nothing of it:
// it has its parameters from the file of the load order.
func (p Profile) Words() []string {
	var out []string
	for _, m := range slices.Sorted(maps.Keys(p.Parameters)) {
		for _, v := range p.Parameters[m] {
			out = append(out, m+"."+v)
		}
	}
	return out
}

// ProfileNames are the names ReadProfile knows.
func ProfileNames() []string {
	var out []string
	files, _ := fs.Glob(profiles, "profile/*.toml") // the pattern is well formed
	for _, f := range files {
		out = append(out, strings.TrimSuffix(path.Base(f), ".toml"))
	}
	return out
}
