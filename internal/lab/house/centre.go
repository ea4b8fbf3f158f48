// SPDX-License-Identifier: Apache-2.0

package house

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"sdbox/gateway/audit"
	"sdbox/internal/tpm/tpmsim"
)

// Operator is the login name of the lab's operator.
const Operator = "olga"

// boxModel is the hardware profile that the boxes' images are for.
const boxModel = "qemu"

// startTimeout is how long a program of the lab may take to answer.
const startTimeout = 20 * time.Second

// makeGateway opens the gateway's place, with its address, its keys and its certificate.
func (s *Site) makeGateway(ctx context.Context) error {
	place, err := s.House.NewPlace(GatewayName)
	if err != nil {
		return err
	}
	s.Gateway = place
	if err := place.configure("addr", "add", GatewayAddress+"/32", "dev", "lo"); err != nil {
		return err
	}
	if err := place.shutOut("bub"); err != nil {
		return err
	}
	if _, err := s.program(ctx, "sdbox-gateway", "init", place.dir, "--domain", string(Domain), "--name", GatewayName, "--at", GatewayAddress+":443"); err != nil {
		return err
	}
	if err := s.issue(ctx, "gateway", GatewayName, filepath.Join(place.dir, "state", "tls")); err != nil {
		return err
	}
	if err := s.issue(ctx, "operator", Operator, filepath.Join(place.dir, "operator")); err != nil {
		return err
	}
	_, err = s.program(ctx, "sdbox-pki", "lend", "devices", "--pki", s.pki(), "--out", filepath.Join(place.dir, "state", "devices"))
	return err
}

// shutOut lets interfaces of this name answer, and never ask: a bubble reaches no port of the gateway, and nothing through it.
func (p *Place) shutOut(prefix string) error {
	rules := fmt.Sprintf(`table inet bubbles {
chain input { type filter hook input priority 0; iifname %[1]q ct state established,related accept; iifname %[1]q drop; }
chain forward { type filter hook forward priority 0; policy drop; }
}`, prefix+"*")
	return p.inNetwork(func() error {
		cmd := exec.Command("nft", "-f", "-")
		cmd.Stdin = strings.NewReader(rules)
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("nft (package nftables): %w: %s", err, out)
		}
		return nil
	})
}

// startGateway writes the configuration, with what the lab's release key signs as reference values, and waits for the gateway.
func (s *Site) startGateway(ctx context.Context) error {
	public, err := os.ReadFile(filepath.Join(s.releaseDir(), "release.pub"))
	if err != nil {
		return err
	}
	note, err := os.ReadFile(s.noteFile(imageVersion))
	if err != nil {
		return err
	}
	dir := s.Gateway.dir
	err = errors.Join(
		os.WriteFile(filepath.Join(dir, "gateway.toml"), []byte(s.gatewayConfig(strings.TrimSpace(string(public)))), 0o644),
		os.WriteFile(filepath.Join(dir, "ctl.toml"), []byte(ctlConfig()), 0o644),
		os.WriteFile(filepath.Join(dir, "reference.note"), note, 0o644),
		os.WriteFile(filepath.Join(dir, "release.pub"), public, 0o644),
		os.WriteFile(filepath.Join(dir, "ek-roots.pem"), s.Boxes[0].TPM.EKRoots(), 0o644))
	if err != nil {
		return err
	}
	if s.GatewayProgram, err = s.Gateway.Start("gateway", searchPath(), binDir+"/sdbox-gateway", "run", "--config", insideDir+"/gateway.toml"); err != nil {
		return err
	}
	if err := s.Gateway.await(ctx, s.GatewayProgram, ConsoleAddress); err != nil {
		return err
	}
	if s.Console, err = openConsole(s.Gateway, filepath.Join(dir, "operator"), Domain.Gateway(GatewayName)); err != nil {
		return err
	}
	if _, err := s.Ctl(ctx, "reference", "add", insideDir+"/reference.note"); err != nil {
		return err
	}
	for _, b := range s.Boxes {
		ek := b.TPM.EKHash()
		if _, err := s.Ctl(ctx, "box", "add", "--ek", hex.EncodeToString(ek[:]), "--serial", b.Serial, "--country", b.Country, "--site", "Amsterdam", "--model", boxModel); err != nil {
			return err
		}
	}
	return nil
}

// makeReference has the house's release key sign what a good box measures: in the process form the recorded boot.
func (s *Site) makeReference(ctx context.Context) error {
	if s.form == ImageForm {
		return s.makeImage(ctx)
	}
	boot, err := tpmsim.RecordedBoot()
	if err != nil {
		return err
	}
	measured := filepath.Join(s.House.dir, "measured")
	if err := os.WriteFile(measured, unitText(boot), 0o644); err != nil {
		return err
	}
	return s.signReference(ctx, measured, imageVersion)
}

// signReference makes the note of measured registers.
func (s *Site) signReference(ctx context.Context, measured, version string) error {
	_, err := s.program(ctx, "sdbox-pki", "reference", "sign", "--measured", measured, "--key", filepath.Join(s.releaseDir(), "release.key"),
		"--out", s.noteFile(version), imageName, version)
	return err
}

// await waits until a program of the place listens at an address there.
func (p *Place) await(ctx context.Context, program *Program, address string) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		conn, err := p.Dial(ctx, "tcp", address)
		if err == nil {
			return conn.Close()
		}
		select {
		case <-program.Done():
			return fmt.Errorf("%s ended (%w): %s", program.Name, program.Err(), p.lastLine(program.Name))
		case <-ctx.Done():
			return fmt.Errorf("%s does not listen at %s: %w: %s", program.Name, address, ctx.Err(), p.lastLine(program.Name))
		case <-tick.C:
		}
	}
}

// lastLine is the end of a program's log, for an error that a person reads.
func (p *Place) lastLine(program string) string {
	raw, err := os.ReadFile(filepath.Join(p.logs, p.Name+"."+program+".log"))
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(raw)), "\n")
	return lines[len(lines)-1]
}

func (s *Site) gatewayConfig(releaseKey string) string {
	return fmt.Sprintf(`# The lab's gateway. sdbox-gateway init wrote the keys beside this file.
domain = %q
name = %q
state = "state"
language = %q
support = %q
tls = "state/tls"
ek_roots = "ek-roots.pem" # the makers of simulated TPMs: taken in the domain "lab" only
references = [%q]
threshold = 1

[front_door]
listen = "%[6]s:443"
endpoints = ["%[6]s:443"]
max_waiting = 256

[tunnel]
listen = "%[6]s:443"
key = "state/tunnel.key"
lease = "15m"

[devices]
dir = "state/devices"

[console]
listen = %[7]q

[health]
listen = "127.0.0.1:9090"

[audit]
key = "state/audit.key"
`, Domain, GatewayName, s.Language, support, releaseKey, GatewayAddress, ConsoleAddress)
}

func ctlConfig() string {
	return fmt.Sprintf(`gateway = %q
name = %q
certificate = "operator/cert.pem"
key = "operator/key.pem"
ca = "operator/ca.pem"
`, ConsoleAddress, Domain.Gateway(GatewayName))
}

// Ctl runs sdboxctl with the lab operator's certificate, on the gateway's machine, and returns its JSON.
func (s *Site) Ctl(ctx context.Context, args ...string) ([]byte, error) {
	args = slices.Concat([]string{"--config", insideDir + "/ctl.toml", "--json"}, args)
	return s.Gateway.Run(ctx, Account{}, searchPath(), binDir+"/sdboxctl", args...)
}

// PingBox has the gateway measure a round trip through the tunnel to a box.
func (s *Site) PingBox(ctx context.Context, b *Box) (time.Duration, error) {
	out, err := s.Ctl(ctx, "box", "ping", b.Serial)
	if err != nil {
		return 0, err
	}
	var answer struct {
		MS float64 `json:"ms"`
	}
	if err := json.Unmarshal(out, &answer); err != nil {
		return 0, fmt.Errorf("sdboxctl box ping: %w", err)
	}
	return time.Duration(answer.MS * float64(time.Millisecond)), nil
}

// VerifyAudit exports the audit log and has sdboxctl verify it on the host, which cannot reach the gateway: the log, and the evidence
// of every session in which somebody logged in.
func (s *Site) VerifyAudit(ctx context.Context) error {
	name := fmt.Sprintf("audit-export-%d", time.Now().UnixMilli())
	if _, err := s.Ctl(ctx, "audit", "export", filepath.Join(insideDir, name)); err != nil {
		return err
	}
	export, key := filepath.Join(s.Gateway.dir, name), filepath.Join(s.Gateway.dir, "state", "audit.pub")
	if _, err := s.program(ctx, "sdboxctl", "audit", "verify", export, "--key", key); err != nil {
		return err
	}
	sessions, err := audit.Sessions(export)
	if err != nil {
		return err
	}
	if len(sessions) == 0 {
		return errors.New("nobody logged in, says the audit log")
	}
	for _, id := range sessions {
		_, err := s.program(ctx, "sdboxctl", "audit", "session", id.String(), "--dir", export, "--key", key,
			"--ca", filepath.Join(s.Gateway.dir, "state", "tls", "ca.pem"), "--release", filepath.Join(s.Gateway.dir, "release.pub"))
		if err != nil {
			return err
		}
	}
	// And once as an operator does it, who has no export: the console is asked for one.
	_, err = s.Ctl(ctx, "audit", "session", sessions[0].String(), "--key", insideDir+"/state/audit.pub", "--ca", insideDir+"/state/tls/ca.pem", "--release", insideDir+"/release.pub")
	return err
}
