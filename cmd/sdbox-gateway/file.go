// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"sdbox/cmd/internal/settings"
	"sdbox/gateway"
	"sdbox/internal/ident"
	"sdbox/internal/refusal"
)

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
	f := defaults()
	if err := settings.Read(path, &f); err != nil {
		return none, &useError{err, settings.Hint(err, "sdbox-gateway init makes one", "the file that sdbox-gateway init writes lists every key")}
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
