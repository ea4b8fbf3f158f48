// SPDX-License-Identifier: Apache-2.0

package main

import (
	"crypto/x509"
	"fmt"
	"log/slog"
	"path/filepath"
	"time"

	"sdbox/cmd/internal/settings"
	"sdbox/internal/bubble"
	"sdbox/internal/ident"
	"sdbox/pki/profile"
)

// config is bubble.toml. Relative paths count from the file.
type config struct {
	Domain    string    `toml:"domain"`     // trust domain of the house, "lab"
	Name      string    `toml:"name"`       // short name of the bubble, "epi"; its certificate is for NAME.bubbles.DOMAIN
	Listen    string    `toml:"listen"`     // host:port for gateways
	State     string    `toml:"state"`      // folder of what outlives a restart
	Run       string    `toml:"run"`        // folder of sockets
	TLS       string    `toml:"tls"`        // folder with cert.pem, key.pem, ca.pem; by default STATE/tls
	Session   string    `toml:"session"`    // shell command of a desktop's programs; the desktop ends when all of them have
	Layouts   []string  `toml:"layouts"`    // keyboard layouts a gateway may ask for; by default the usual ones of Europe
	MaxWidth  int       `toml:"max_width"`  // of a desktop in pixels
	MaxHeight int       `toml:"max_height"` // of a desktop in pixels
	Accounts  []account `toml:"accounts"`
}

// account is one [[accounts]].
type account struct {
	Name    string `toml:"name"`    // what the gateway's tokens name
	UID     uint32 `toml:"uid"`     // 1000 or more
	GID     uint32 `toml:"gid"`     // by default as uid
	Home    string `toml:"home"`    // by default /home/NAME; made if missing
	Session string `toml:"session"` // by default the bubble's
}

// readConfig reads bubble.toml; an unknown key is an error.
func readConfig(path string) (*config, error) {
	c := &config{Listen: ":7443", State: "/var/lib/sdbox/bubble", Run: "/run/sdbox/bubble"}
	if err := settings.Read(path, c); err != nil {
		return nil, &useError{err, settings.Hint(err, "name one with --config; README.md, Run it for real, shows one", hintConfig)}
	}
	base, err := filepath.Abs(filepath.Dir(path))
	if err != nil {
		return nil, fmt.Errorf("configuration %s: %w", path, err)
	}
	if c.TLS == "" {
		c.TLS = filepath.Join(c.State, "tls")
	}
	for _, p := range []*string{&c.State, &c.Run, &c.TLS} {
		if !filepath.IsAbs(*p) {
			*p = filepath.Join(base, *p)
		}
	}
	return c, nil
}

// settings turns the file into the bubble's settings, and reads its certificate.
func (c *config) settings(log *slog.Logger) (bubble.Config, error) {
	domain, err := ident.ParseDomain(c.Domain)
	if err != nil {
		return bubble.Config{}, fmt.Errorf("configuration, key \"domain\": %w", err)
	}
	id, err := profile.LoadIdentity(c.TLS, domain)
	if err != nil {
		return bubble.Config{}, err
	}
	switch name, err := id.Trust.VerifyBubble(id.TLS.Leaf.Raw, time.Now()); {
	case err != nil:
		return bubble.Config{}, fmt.Errorf("own certificate: %w", err)
	case name != c.Name:
		return bubble.Config{}, fmt.Errorf("own certificate: it is for bubble %s, the configuration says %s", name, c.Name)
	}
	s := bubble.Config{
		Domain: domain, Name: c.Name, State: c.State, Run: c.Run, Certificate: id.TLS, Roots: id.Trust.Roots(),
		Layouts: c.Layouts, MaxWidth: c.MaxWidth, MaxHeight: c.MaxHeight, Log: log,
		Gateway: func(cert *x509.Certificate) error {
			_, err := id.Trust.VerifyGateway(cert.Raw, time.Now())
			return err
		},
	}
	for _, a := range c.Accounts {
		if a.Home == "" {
			a.Home = "/home/" + a.Name
		}
		if a.Session == "" {
			a.Session = c.Session
		}
		s.Accounts = append(s.Accounts, bubble.Account(a))
	}
	return s, nil
}

func (c *config) server(log *slog.Logger) (*bubble.Server, error) {
	s, err := c.settings(log)
	if err != nil {
		return nil, err
	}
	return bubble.New(s)
}
