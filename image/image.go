// SPDX-License-Identifier: Apache-2.0

// Package image makes the operating system of an SD-Box: one signed program that the firmware starts, the disk it stands on, and what
// the machine's TPM will say once it runs. The same input gives the same bytes.
package image

import (
	"cmp"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"sdbox/firmware/release"
	"sdbox/image/initramfs"
	"sdbox/image/keys"
	"sdbox/image/packages"

	"github.com/pelletier/go-toml/v2"
)

//go:embed packages.lock
var lockText string

// Lock is the packages this version of sdbox is made with.
func Lock() (packages.Lock, error) {
	l, err := packages.ParseLock(strings.NewReader(lockText))
	if err != nil {
		return nil, fmt.Errorf("packages.lock: %w", err)
	}
	return l, nil
}

// Wanted are the packages a lock is made of. The kernel's is a meta package: it stands for the newest of its series. A package of
// which nothing gets into the image is refused, and so is a library that none of them holds.
func Wanted() []string {
	return []string{
		"libc6", "libcap2", "libccid", "libgcc-s1", "libgcrypt20", "libgpg-error0", "liblz4-1", "liblzma5", "libpcsclite1", "libsystemd0",
		"libudev1", "libusb-1.0-0", "libzstd1", "linux-image-6.12-amd64", "pcscd", "systemd-boot-efi",
	}
}

// The two forms of an image. They are signed by different keys: firmware that has the production key alone refuses to start the other.
const (
	Production = "production"
	Dev        = "dev" // kernel and events on the serial console
)

// Spec says which image is to be made.
type Spec struct {
	Site    *Site
	Profile string        // of initramfs.ProfileNames
	Form    string        // Production or Dev
	Version string        // year.month.day, and a further number where a day has two: 2026.11.24, 2026.11.24.2
	Built   time.Time     // the earliest time a box takes for true; the same for the same sources
	Agent   string        // file: the program sdbox-agent, stripped
	Lock    packages.Lock // which packages
	Cache   string        // folder of fetched packages
	Kernel  string        // folder of a kernel of one's own, as make kernel makes it; "" = the one of the lock
	Note    func(string)  // is told, in words for people, what takes long
}

func (s *Spec) check() error {
	if _, err := release.ParseVersion(s.Version); err != nil {
		return err
	}
	switch {
	case s.Form != Production && s.Form != Dev:
		return fmt.Errorf("form %q: want %s or %s", s.Form, Production, Dev)
	case s.Site.Release.Minimum != "" && release.Compare(s.Site.Release.Minimum, s.Version) > 0:
		return fmt.Errorf("version %q is older than release.minimum %q of the site", s.Version, s.Site.Release.Minimum)
	case s.Built.Year() < 2020:
		return fmt.Errorf("built %s: no time an image can be of", s.Built.Format(time.RFC3339))
	}
	return nil
}

// Parts is what an image is assembled of.
type Parts struct {
	Profile   initramfs.Profile
	Tree      initramfs.Tree
	Kernel    []byte // bzImage, signed by Debian
	Uname     string // its release: 6.12.117+deb12-amd64
	Config    []byte // its configuration
	Stub      []byte // systemd-stub, for the UKI
	OSRelease string
}

// Collect fetches the packages and lays out the parts.
func Collect(ctx context.Context, s Spec) (*Parts, error) {
	pair, err := s.pair()
	if err != nil {
		return nil, err
	}
	return collect(ctx, s, pair)
}

func collect(ctx context.Context, s Spec, pair keys.Pair) (*Parts, error) {
	if err := s.check(); err != nil {
		return nil, err
	}
	profile, err := initramfs.ReadProfile(s.Profile)
	if err != nil {
		return nil, err
	}
	agent, err := os.ReadFile(s.Agent)
	if err != nil {
		return nil, err
	}
	files, err := unpack(ctx, s)
	if err != nil {
		return nil, err
	}
	p := &Parts{Profile: profile, OSRelease: fmt.Sprintf("ID=sdbox\nIMAGE_ID=%s\nIMAGE_VERSION=%s\n", s.Profile, s.Version)}
	if err := p.kernel(files); err != nil {
		return nil, err
	}
	settings, err := s.settings(profile)
	if err != nil {
		return nil, err
	}
	if settings["ipe.p7b"], err = signPolicy([]byte(execution), pair); err != nil {
		return nil, err
	}
	p.Tree, err = initramfs.Build(initramfs.Spec{Agent: agent, Profile: profile, Packages: files, Release: p.OSRelease, Settings: settings})
	return p, err
}

const (
	stubPath   = "usr/lib/systemd/boot/efi/linuxx64.efi.stub"
	kernelPath = "boot/vmlinuz-"
	configPath = "boot/config-"
)

func unpack(ctx context.Context, s Spec) (packages.Files, error) {
	used := s.packages()
	debs, err := packages.Fetch(ctx, used, s.Cache, func(p packages.Package) { s.Note("fetching " + p.String()) })
	if err != nil {
		return nil, err
	}
	files := packages.Files{}
	for i, deb := range debs {
		err := files.Unpack(ctx, used[i].Name, deb, func(p string) bool {
			return initramfs.Wants(p) || p == stubPath || strings.HasPrefix(p, kernelPath) || strings.HasPrefix(p, configPath)
		})
		if err != nil {
			return nil, err
		}
	}
	if s.Kernel != "" {
		return files, own(s.Kernel, files)
	}
	return files, nil
}

// kernel finds the kernel, which must be one.
func (p *Parts) kernel(files packages.Files) error {
	for name, f := range files {
		if release, is := strings.CutPrefix(name, kernelPath); is {
			if p.Kernel != nil {
				return errors.New("two kernels in the packages of the lock")
			}
			p.Kernel, p.Uname = f.Data, release
		}
	}
	p.Config, p.Stub = files[configPath+p.Uname].Data, files[stubPath].Data
	if p.Kernel == nil || p.Config == nil || p.Stub == nil {
		return errors.New("no kernel, or no systemd-stub, in the packages of the lock")
	}
	return nil
}

// settings are the files of /etc/sdbox.
func (s *Spec) settings(profile initramfs.Profile) (map[string][]byte, error) {
	out, err := s.Site.anchors()
	if err != nil {
		return nil, err
	}
	if s.Site.Enrol {
		e, err := keys.Enrolment(s.Site.Keys, s.Form == Dev)
		if err != nil {
			return nil, err
		}
		out["enrol/db.auth"], out["enrol/KEK.auth"], out["enrol/PK.auth"] = e.DB, e.KEK, e.PK
	}
	type table = map[string]any
	for name, value := range map[string]any{
		"boot.toml": table{
			"profile": s.Profile, "form": s.Form, "domain": s.Site.Domain, "version": s.Version, "model": s.Profile,
			"built": s.Built.UTC().Truncate(time.Second), "events": s.Site.Events, "language": s.Site.Language,
			"usb": table{"hubs": profile.Hubs}, "watchdog": table{"seconds": watchdogSeconds},
			"release": table{"minimum": cmp.Or(s.Site.Release.Minimum, s.Version)},
		},
		"agent.toml": table{
			"domain": s.Site.Domain, "gateway": s.Site.Gateway, "gateway_name": s.Site.GatewayName, "root": "root.pem",
			"language": s.Site.Language, "layout": s.Site.Layout, "support": s.Site.Support, "state": "/run/agent",
			"hardware": table{"tpm": "/dev/tpmrm0", "screen": "drm", "keys": "evdev", "finger": s.Site.Finger},
		},
	} {
		if out[name], err = toml.Marshal(value); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	return out, nil
}

// watchdogSeconds is how long PID 1 may say nothing before the machine starts anew.
const watchdogSeconds = 30
