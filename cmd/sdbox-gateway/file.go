// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"sdbox/gateway"
	"sdbox/internal/ident"
	"sdbox/internal/refusal"

	"github.com/pelletier/go-toml/v2"
)

// maxConfig is the longest configuration file taken, in bytes.
const maxConfig = 256 << 10

// file is gateway.toml. The comments that a person reads are in template, beside init.
type file struct {
	Domain     string   `toml:"domain"`
	Name       string   `toml:"name"`
	State      string   `toml:"state"`
	Language   string   `toml:"language"`
	Support    string   `toml:"support"`
	References []string `toml:"references"`
	Threshold  int      `toml:"threshold"`
	TLS        string   `toml:"tls"`
	EKRoots    string   `toml:"ek_roots"`
	Policies   string   `toml:"policies"`
	Database   string   `toml:"database"`

	FrontDoor struct {
		Listen     string   `toml:"listen"`
		Endpoints  []string `toml:"endpoints"`
		MaxWaiting int      `toml:"max_waiting"`
	} `toml:"front_door"`
	Tunnel struct {
		Listen string `toml:"listen"`
		Key    string `toml:"key"`
		Lease  string `toml:"lease"`
	} `toml:"tunnel"`
	Devices struct {
		Dir      string `toml:"dir"`
		Identity string `toml:"identity"`
	} `toml:"devices"`
	Console struct {
		Listen string `toml:"listen"`
	} `toml:"console"`
	Health struct {
		Listen string `toml:"listen"`
	} `toml:"health"`
	Audit struct {
		Key string `toml:"key"`
	} `toml:"audit"`
}

// defaults are the values of a file that leaves a key out.
func defaults() file {
	var f file
	f.Name, f.State, f.Language = "gw1", "/var/lib/sdbox/gateway", string(refusal.French)
	f.Threshold = 1
	f.FrontDoor.Listen, f.FrontDoor.MaxWaiting = ":443", 256
	f.Tunnel.Listen, f.Tunnel.Lease = ":443", "15m"
	f.Console.Listen, f.Health.Listen = ":8443", "127.0.0.1:9090"
	return f
}

// readFile reads a configuration strictly: a key it does not know is an error, and relative paths count from the file.
func readFile(path string) (gateway.Config, error) {
	var none gateway.Config
	in, err := os.Open(path)
	if err != nil {
		return none, &useError{fmt.Errorf("configuration: %w", err), "sdbox-gateway init makes one"}
	}
	defer in.Close()
	raw, err := io.ReadAll(io.LimitReader(in, maxConfig+1))
	if err != nil || len(raw) > maxConfig {
		return none, errors.Join(fmt.Errorf("configuration %s: over %d bytes or unreadable", path, maxConfig), err)
	}
	f := defaults()
	if err := toml.NewDecoder(bytes.NewReader(raw)).DisallowUnknownFields().Decode(&f); err != nil {
		var strict *toml.StrictMissingError
		if errors.As(err, &strict) {
			return none, &useError{fmt.Errorf("%s has a key that means nothing here:\n%s", path, strict.String()), "the file that sdbox-gateway init writes lists every key"}
		}
		var wrong *toml.DecodeError
		if errors.As(err, &wrong) {
			line, _ := wrong.Position()
			err = fmt.Errorf("line %d: %w", line, err)
		}
		return none, &useError{fmt.Errorf("%s: %w", path, err), "it is TOML: key = \"value\""}
	}
	c, err := f.config(filepath.Dir(path))
	if err == nil {
		err = c.Check()
	}
	if err != nil {
		return none, &useError{fmt.Errorf("%s: %w", path, err), "change the file and look again with sdbox-gateway config check"}
	}
	return c, nil
}

func (f file) config(dir string) (gateway.Config, error) {
	at := func(path, otherwise string) string {
		if path == "" {
			path = otherwise
		}
		if path == "" || filepath.IsAbs(path) {
			return path
		}
		return filepath.Join(dir, path)
	}
	lease, err := time.ParseDuration(f.Tunnel.Lease)
	if err != nil {
		return gateway.Config{}, fmt.Errorf("tunnel.lease: %w", err)
	}
	state := at(f.State, "")
	return gateway.Config{
		Domain: ident.Domain(f.Domain), Name: f.Name, State: state, Language: refusal.Lang(f.Language), Support: f.Support,
		References: f.References, Policies: at(f.Policies, ""), Database: database(f.Database, at), Console: f.Console.Listen, Health: f.Health.Listen,
		TLS: at(f.TLS, filepath.Join(state, "tls")), EKRoots: at(f.EKRoots, ""), Threshold: f.Threshold,
		FrontDoor: gateway.FrontDoorConfig{Listen: f.FrontDoor.Listen, Endpoints: f.FrontDoor.Endpoints, MaxWaiting: f.FrontDoor.MaxWaiting},
		Tunnel:    gateway.TunnelConfig{Listen: f.Tunnel.Listen, Key: at(f.Tunnel.Key, filepath.Join(state, "tunnel.key")), Lease: lease},
		Devices:   gateway.AuthorityConfig{Dir: at(f.Devices.Dir, ""), Identity: at(f.Devices.Identity, "")},
		AuditKey:  at(f.Audit.Key, filepath.Join(state, "audit.key")),
	}, nil
}

// database resolves a relative path of SQLite like every other path of the file; what names a server stays as it is.
func database(dsn string, at func(path, otherwise string) string) string {
	if dsn == "" || strings.HasPrefix(dsn, "postgres:") || strings.HasPrefix(dsn, "postgresql:") {
		return dsn
	}
	return "sqlite:" + at(strings.TrimPrefix(dsn, "sqlite:"), "")
}
