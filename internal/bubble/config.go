// SPDX-License-Identifier: Apache-2.0

package bubble

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"sdbox/internal/ident"
)

// minUID keeps desktops away from the system's own accounts.
const minUID = 1000

// Account is a person's account in the bubble.
type Account struct {
	Name    string // what a token names: lower-case letters, digits and hyphens
	UID     uint32 // at least 1000
	GID     uint32 // 0 means as UID
	Home    string // made if missing; it belongs to the account
	Session string // the shell command of the desktop's programs; the desktop ends when all of them have
}

// Config is everything a Server is told. Relative paths are not allowed.
type Config struct {
	Domain      ident.Domain
	Name        string // the bubble's short name; its DNS name is Domain.Bubble(Name)
	State       string // directory for what must survive a restart
	Run         string // directory for sockets; emptied of a desktop's files at its start
	Certificate tls.Certificate
	Roots       *x509.CertPool                // of the Gateways CA
	Gateway     func(*x509.Certificate) error // what else a gateway's verified certificate must be; nil: nothing
	Accounts    []Account
	Layouts     []string // keyboard layouts a gateway may ask for; empty means Layouts()
	MaxWidth    int      // of a desktop; 0 means 4096
	MaxHeight   int      // 0 means 2400
	Log         *slog.Logger
}

// Layouts are the keyboard layouts of xkeyboard-config that a gateway may ask for unless the site says otherwise.
func Layouts() []string {
	return []string{"be", "ch", "cz", "de", "dk", "es", "fi", "fr", "gb", "gr", "ie", "it", "nl", "no", "pl", "pt", "ro", "se", "us"}
}

// Check says what is wrong with a config, or nil. It touches nothing.
func Check(c Config) error {
	if _, err := c.check(); err != nil {
		return fmt.Errorf("bubble: %w", err)
	}
	return nil
}

// check returns the config with its defaults, or what is wrong with it in the words of its file.
func (c Config) check() (Config, error) {
	if _, err := ident.ParseDomain(string(c.Domain)); err != nil {
		return c, err
	}
	if err := ident.CheckBubble(c.Name); err != nil {
		return c, err
	}
	for what, dir := range map[string]string{"state": c.State, "run": c.Run} {
		if !filepath.IsAbs(dir) {
			return c, fmt.Errorf("%s directory %q: want an absolute path", what, dir)
		}
	}
	if len(c.Certificate.Certificate) == 0 || c.Roots == nil || c.Log == nil {
		return c, errors.New("certificate, roots and log must be given")
	}
	if len(c.Layouts) == 0 {
		c.Layouts = Layouts()
	}
	layout := regexp.MustCompile(`^[a-z]{2,12}$`)
	for _, l := range c.Layouts {
		if !layout.MatchString(l) {
			return c, fmt.Errorf("keyboard layout %.20q: want lower-case letters", l)
		}
	}
	if c.MaxWidth == 0 {
		c.MaxWidth = 4096
	}
	if c.MaxHeight == 0 {
		c.MaxHeight = 2400
	}
	if c.MaxWidth < minSide || c.MaxHeight < minSide || c.MaxWidth > 8192 || c.MaxHeight > 8192 {
		return c, fmt.Errorf("largest desktop of %d x %d pixels: want %d to 8192", c.MaxWidth, c.MaxHeight, minSide)
	}
	return c, c.checkAccounts()
}

func (c Config) checkAccounts() error {
	if len(c.Accounts) == 0 || len(c.Accounts) > MaxAccounts {
		return fmt.Errorf("%d accounts: want 1 to %d", len(c.Accounts), MaxAccounts)
	}
	name := regexp.MustCompile(`^[a-z][a-z0-9-]*$`)
	var names []string
	var uids []uint32
	for _, a := range c.Accounts {
		switch {
		case len(a.Name) > maxName || !name.MatchString(a.Name):
			return fmt.Errorf("account name %.40q: want at most %d lower-case letters, digits and hyphens", a.Name, maxName)
		case a.UID < minUID || a.GID != 0 && a.GID < minUID:
			return fmt.Errorf("account %s: uid and gid must be at least %d", a.Name, minUID)
		case os.Geteuid() != 0 && int(a.UID) != os.Geteuid():
			return fmt.Errorf("account %s: only root can start a desktop for uid %d", a.Name, a.UID)
		case !filepath.IsAbs(a.Home) || filepath.Clean(a.Home) == "/":
			return fmt.Errorf("account %s: home %q must be an absolute path", a.Name, a.Home)
		case strings.TrimSpace(a.Session) == "":
			return fmt.Errorf("account %s: no session command", a.Name)
		case slices.Contains(names, a.Name) || slices.Contains(uids, a.UID):
			return fmt.Errorf("account %s: its name or uid stands twice", a.Name)
		}
		names, uids = append(names, a.Name), append(uids, a.UID)
	}
	return nil
}
