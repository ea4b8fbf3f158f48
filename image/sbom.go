// SPDX-License-Identifier: Apache-2.0

package image

import (
	"bytes"
	"cmp"
	"debug/buildinfo"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"sdbox/image/packages"
)

// The parts of CycloneDX 1.6 (ECMA-424) that are used.
type (
	cdxBOM struct {
		Schema     string         `json:"$schema"`
		Format     string         `json:"bomFormat"`
		Spec       string         `json:"specVersion"`
		Version    int            `json:"version"`
		Metadata   cdxMetadata    `json:"metadata"`
		Components []cdxComponent `json:"components"`
	}
	cdxMetadata struct {
		Timestamp string       `json:"timestamp"`
		Component cdxComponent `json:"component"`
	}
	cdxComponent struct {
		Type    string    `json:"type"`
		Ref     string    `json:"bom-ref"`
		Name    string    `json:"name"`
		Version string    `json:"version"`
		Hashes  []cdxHash `json:"hashes,omitempty"`
		PURL    string    `json:"purl,omitempty"`
	}
	cdxHash struct {
		Algorithm string `json:"alg"`
		Content   string `json:"content"`
	}
)

// sbom lists what an image is made of: the Debian packages with the hashes of the lock, the Go toolchain, and the Go modules that are
// in the agent, as the agent itself says, with the hashes of go.sum.
func sbom(s Spec, p *Parts) ([]byte, error) {
	b := cdxBOM{
		Schema: "http://cyclonedx.org/schema/bom-1.6.schema.json", Format: "CycloneDX", Spec: "1.6", Version: 1,
		Metadata: cdxMetadata{
			Timestamp: s.Built.UTC().Format(time.RFC3339),
			Component: cdxComponent{Type: "operating-system", Ref: "sdbox-image", Name: "sdbox-image-" + s.Profile, Version: s.Version},
		},
	}
	used := s.packages()
	if s.Kernel != "" {
		source, err := os.Open(filepath.Join(s.Kernel, ownSource))
		if err != nil {
			return nil, err
		}
		defer source.Close()
		linux, err := packages.ParseLock(source)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", source.Name(), err)
		}
		used = append(used, linux...)
	}
	for _, d := range used {
		purl := "pkg:deb/debian/" + url.PathEscape(d.Name) + "@" + url.PathEscape(d.Version) + "?arch=amd64&distro=debian-12"
		b.Components = append(b.Components, cdxComponent{
			Type: "library", Ref: purl, Name: d.Name, Version: d.Version, PURL: purl, Hashes: []cdxHash{{"SHA-256", d.SHA256}},
		})
	}
	modules, err := goComponents(s.Agent)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s.Agent, err)
	}
	b.Components = append(b.Components, modules...)
	var text bytes.Buffer
	e := json.NewEncoder(&text)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	err = e.Encode(b)
	return text.Bytes(), err
}

func goComponents(program string) ([]cdxComponent, error) {
	info, err := buildinfo.ReadFile(program)
	if err != nil {
		return nil, err
	}
	std := strings.TrimPrefix(info.GoVersion, "go")
	out := []cdxComponent{{Type: "library", Ref: "pkg:golang/std@" + std, Name: "std", Version: std, PURL: "pkg:golang/std@" + std}}
	for _, m := range info.Deps {
		if m.Replace != nil {
			m = m.Replace
		}
		c, err := goComponent(m)
		if err != nil {
			return nil, err
		}
		out = append(out, c)
	}
	slices.SortFunc(out, func(a, b cdxComponent) int { return cmp.Compare(a.Ref, b.Ref) })
	return out, nil
}

func goComponent(m *debug.Module) (cdxComponent, error) {
	purl := "pkg:golang/" + m.Path + "@" + url.PathEscape(m.Version)
	c := cdxComponent{Type: "library", Ref: purl, Name: m.Path, Version: m.Version, PURL: purl}
	if sum, ok := strings.CutPrefix(m.Sum, "h1:"); ok {
		hash, err := base64.StdEncoding.DecodeString(sum)
		if err != nil {
			return c, fmt.Errorf("%s: %w", m.Path, err)
		}
		c.Hashes = []cdxHash{{"SHA-256", hex.EncodeToString(hash)}}
	}
	return c, nil
}
