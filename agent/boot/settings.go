// SPDX-License-Identifier: Apache-2.0

package boot

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"sdbox/firmware/release"
	"sdbox/internal/ident"
	"sdbox/internal/refusal"

	"github.com/pelletier/go-toml/v2"
)

// maxSettings is the longest boot.toml taken, in bytes.
const maxSettings = 16 << 10

// Form says for whom an image was signed.
type Form string

// The forms. A dev image is signed by a key that no production firmware holds.
const (
	Production Form = "production"
	Dev        Form = "dev"
)

// Settings are /etc/sdbox/boot.toml: what PID 1 is told by the image itself, and so by what the TPM has measured.
type Settings struct {
	Profile string    `toml:"profile"` // of kernel modules: "qemu", "generic"
	Form    Form      `toml:"form"`
	Domain  string    `toml:"domain"`
	Version string    `toml:"version"` // of the release
	Model   string    `toml:"model"`   // of the hardware, as releases name it
	Built   time.Time `toml:"built"`   // no clock of this machine may be earlier
	Events  string    `toml:"events"`  // where log lines go: "port:NAME", "console", "" = kept in memory

	Language refusal.Lang `toml:"language"` // of the first screen: "fr", else English

	USB      USB      `toml:"usb"`
	Watchdog Watchdog `toml:"watchdog"`
	Release  Release  `toml:"release"`
}

// USB says what may be plugged in besides keyboards, mice and card readers.
type USB struct {
	Hubs bool `toml:"hubs"`
}

// Watchdog says how long PID 1 may stand still before the hardware starts the machine again.
type Watchdog struct {
	Seconds int `toml:"seconds"` // 0 = no watchdog
}

// Release says what may replace this image.
type Release struct {
	Minimum string `toml:"minimum"` // the oldest version; "" = this one
}

// ReadSettings reads and checks boot.toml; an unknown key is an error.
func ReadSettings(path string) (Settings, error) {
	f, err := os.Open(path)
	if err != nil {
		return Settings{}, fmt.Errorf("settings of the image: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxSettings+1))
	if err != nil {
		return Settings{}, fmt.Errorf("settings of the image: %w", err)
	}
	s, err := parseSettings(text)
	if err != nil {
		return Settings{}, fmt.Errorf("settings of the image %s: %w", path, err)
	}
	return s, nil
}

func parseSettings(text []byte) (Settings, error) {
	var s Settings
	if len(text) > maxSettings {
		return s, fmt.Errorf("over %d bytes", maxSettings)
	}
	if err := toml.NewDecoder(bytes.NewReader(text)).DisallowUnknownFields().Decode(&s); err != nil {
		return s, err
	}
	if s.Release.Minimum == "" {
		s.Release.Minimum = s.Version
	}
	return s, s.check()
}

func (s Settings) check() error {
	domain, err := ident.ParseDomain(s.Domain)
	if err != nil {
		return err
	}
	switch {
	case s.Profile == "" || s.Version == "" || s.Model == "":
		return errors.New("profile, version and model are required")
	case s.Form != Production && s.Form != Dev:
		return fmt.Errorf("form %.20q: want production or dev", s.Form)
	case release.Compare(s.Release.Minimum, s.Version) > 0:
		return fmt.Errorf("release.minimum %.40q is after the version of this image", s.Release.Minimum)
	case s.Built.IsZero():
		return errors.New("built is required")
	case s.Watchdog.Seconds < 0 || s.Watchdog.Seconds > 600:
		return fmt.Errorf("watchdog.seconds %d: want 0 to 600", s.Watchdog.Seconds)
	}
	port, isPort := strings.CutPrefix(s.Events, portPrefix)
	switch {
	case s.Events == "":
	case s.Events == eventsConsole && s.Form != Dev:
		return errors.New("events: the console is for the form dev")
	case s.Events == eventsConsole:
	case !isPort || port == "":
		return fmt.Errorf("events %.40q: want port:NAME, console or nothing", s.Events)
	case domain != ident.Lab:
		return fmt.Errorf("events: a port is refused outside the domain %q", ident.Lab)
	}
	return nil
}
