// SPDX-License-Identifier: Apache-2.0

package image

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"

	"github.com/pelletier/go-toml/v2"
)

// maxSiteFile is the longest file of a site taken, in bytes.
const maxSiteFile = 64 << 10

// Site is what an image trusts, and what makes it one organisation's: the file site.toml. All of it is measured when a box boots.
// Relative paths count from the file.
type Site struct {
	Domain      string   `toml:"domain"`       // the house's domain
	Gateway     []string `toml:"gateway"`      // host:port of front doors, best first; a box may be told others, never other anchors
	GatewayName string   `toml:"gateway_name"` // DNS name in the gateways' certificates
	Root        string   `toml:"root"`         // PEM file: the root certificate of the centre
	Language    string   `toml:"language"`     // "fr" or "en", until the centre says
	Layout      string   `toml:"layout"`       // keyboard layout
	Support     string   `toml:"support"`      // whom to call when the centre cannot be reached
	Release     Release  `toml:"release"`      // who may sign the next image
	SealPolicy  string   `toml:"seal_policy"`  // PEM file: public key of the policies the box's TPM seals to; optional
	Escrow      string   `toml:"escrow"`       // file: the age recipient who can open what is kept for the worst day; optional
	Keys        string   `toml:"keys"`         // folder of the Secure Boot keys, as sdbox-image keys makes it
	Enrol       bool     `toml:"enrol"`        // a machine in setup mode is given these keys when it first starts the image
	Events      string   `toml:"events"`       // "" or "port:NAME": where the machine's events go as JSON lines; in the domain lab only
	Finger      string   `toml:"finger"`       // the finger sensor; see the agent's hardware.finger
}

// Release is who may sign the next image.
type Release struct {
	Threshold int      `toml:"threshold"` // how many of them at least
	Minimum   string   `toml:"minimum"`   // the oldest version that may replace an image; "" = its own, so that a box never goes back
	Keys      []string `toml:"keys"`      // files: one verifier key each, as sdbox-pki reference key writes release.pub
}

// lab is the domain in which hardware may be simulated.
const lab = "lab"

// ReadSite reads a site file. An unknown key is an error.
func ReadSite(path string) (*Site, error) {
	text, err := readCapped(path)
	if err != nil {
		return nil, err
	}
	s := &Site{Language: "en", Layout: "us", Finger: "exec:/bin/sdbox-finger"}
	if err := toml.NewDecoder(bytes.NewReader(text)).DisallowUnknownFields().Decode(s); err != nil {
		var unknown *toml.StrictMissingError
		if errors.As(err, &unknown) {
			return nil, fmt.Errorf("%s: keys that mean nothing here: %s", path, unknown.String())
		}
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	for _, p := range s.paths() {
		if *p != "" && !filepath.IsAbs(*p) {
			*p = filepath.Join(filepath.Dir(path), *p)
		}
	}
	if err := s.check(); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return s, nil
}

func (s *Site) paths() []*string {
	all := []*string{&s.Root, &s.SealPolicy, &s.Escrow, &s.Keys}
	for i := range s.Release.Keys {
		all = append(all, &s.Release.Keys[i])
	}
	return all
}

func (s *Site) check() error {
	switch {
	case s.Domain == "" || s.GatewayName == "" || s.Root == "" || s.Keys == "":
		return errors.New("domain, gateway_name, root and keys are required")
	case len(s.Gateway) == 0 || len(s.Gateway) > 8:
		return errors.New("gateway: want 1 to 8 entries of host:port")
	case s.Language != "fr" && s.Language != "en":
		return fmt.Errorf("language %.20q: want fr or en", s.Language)
	case s.Release.Threshold < 1 || s.Release.Threshold > len(s.Release.Keys):
		return fmt.Errorf("release.threshold %d: want 1 to the number of release.keys (%d)", s.Release.Threshold, len(s.Release.Keys))
	case s.Events != "" && s.Domain != lab:
		return fmt.Errorf("events = %.80q: events leave a box in the domain %q only", s.Events, lab)
	}
	for _, g := range s.Gateway {
		if _, _, err := net.SplitHostPort(g); err != nil {
			return fmt.Errorf("gateway %.80q: want host:port", g)
		}
	}
	return nil
}

// anchors reads the files a site names, as they go into /etc/sdbox.
func (s *Site) anchors() (map[string][]byte, error) {
	root, err := readCapped(s.Root)
	if err != nil {
		return nil, err
	}
	block, rest := pem.Decode(root)
	if block == nil || block.Type != "CERTIFICATE" || len(bytes.TrimSpace(rest)) > 0 {
		return nil, fmt.Errorf("%s: want one PEM certificate", s.Root)
	}
	if _, err := x509.ParseCertificate(block.Bytes); err != nil {
		return nil, fmt.Errorf("%s: %w", s.Root, err)
	}
	release := fmt.Appendf(nil, "threshold %d\n", s.Release.Threshold)
	for _, file := range s.Release.Keys {
		key, err := readCapped(file)
		if err != nil {
			return nil, err
		}
		if key = bytes.TrimSpace(key); bytes.ContainsAny(key, "\n\r") {
			return nil, fmt.Errorf("%s: want one verifier key", file)
		}
		release = fmt.Appendf(release, "%s\n", key)
	}
	out := map[string][]byte{"root.pem": pem.EncodeToMemory(block), "release.pub": release}
	for name, file := range map[string]string{"seal-policy.pem": s.SealPolicy, "escrow.pub": s.Escrow} {
		if file == "" {
			continue
		}
		if out[name], err = readCapped(file); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func readCapped(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.Size() > maxSiteFile {
		return nil, fmt.Errorf("%s: over %d bytes", path, maxSiteFile)
	}
	return os.ReadFile(path)
}
