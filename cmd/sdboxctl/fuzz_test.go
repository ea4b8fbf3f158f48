// SPDX-License-Identifier: Apache-2.0

package main

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"sdbox/cmd/internal/settings"

	"github.com/stretchr/testify/require"
)

func FuzzConfig(f *testing.F) {
	f.Add([]byte("gateway = \"gw1.lab:8443\"\nname = \"gw1.lab\"\ncertificate = \"cert.pem\"\nkey = \"/k/key.pem\"\nca = \"ca.pem\"\n"))
	f.Add([]byte("gateway = \"x\"\n"))
	f.Add([]byte("gatway = \"x\"\n"))
	f.Add([]byte("gateway = "))
	f.Add(make([]byte, settings.Max+1))
	f.Fuzz(func(t *testing.T, text []byte) {
		file := filepath.Join(t.TempDir(), "ctl.toml")
		require.NoError(t, os.WriteFile(file, text, 0o600))
		if c, err := readConfig(file); err == nil {
			require.NotEmpty(t, c.Gateway)
			require.True(t, filepath.IsAbs(c.Certificate) && filepath.IsAbs(c.Key) && filepath.IsAbs(c.CA))
		}
	})
}

// told is a gateway that answers every request alike.
type told struct {
	status int
	body   []byte
}

func (g told) RoundTrip(r *http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: g.status, Status: http.StatusText(g.status), Body: io.NopCloser(bytes.NewReader(g.body)), Request: r}, nil
}

func FuzzAnswer(f *testing.F) {
	f.Add(uint16(200), []byte(`[{"serial":"PARIS-1","ek":"ab","outer":["192.0.2.0/24"],"until":"2026-11-24T00:00:00Z"}]`))
	f.Add(uint16(200), []byte(`{"serial":7}`))
	f.Add(uint16(204), []byte{})
	for _, status := range []uint16{400, 403, 404, 409, 422, 500} {
		f.Add(status, []byte(`{"error":"no","hint":"try"}`))
	}
	f.Add(uint16(502), []byte("<html>"))
	f.Fuzz(func(t *testing.T, status uint16, body []byte) {
		if status < 200 || status > 599 || status/100 == 3 {
			return // Go's client keeps the first, and follows the second
		}
		c := &client{base: "https://gw", http: &http.Client{Transport: told{int(status), body}}}
		var out any
		err := c.call(t.Context(), "GET", "boxes", nil, &out)
		silent := c.call(t.Context(), "POST", "boxes", "in", nil)
		require.Equal(t, status < 300, silent == nil)
		require.True(t, err != nil || status < 300)
		if status >= 400 {
			var p *problem
			require.True(t, errors.As(err, &p) && p.Error() != "" && p.code != 0, "%v", err)
		}
	})
}

// FuzzUnpack is an export of a hostile gateway: it fills its folder, and nothing beside it.
func FuzzUnpack(f *testing.F) {
	for _, headers := range [][]tar.Header{
		{{Name: "rows.jsonl", Size: 3}, {Name: "tile/0/000.p/2", Size: 3}}, {{Name: "a", Size: 3}, {Name: "a", Size: 3}}, {{Name: "a", Size: 3}, {Name: "a/b", Size: 3}},
		{{Name: "../out", Size: 3}}, {{Name: "link", Typeflag: tar.TypeSymlink, Linkname: "/etc/passwd"}},
	} {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		for _, h := range headers {
			require.NoError(f, w.WriteHeader(&h))
			_, err := w.Write([]byte("row")[:h.Size])
			require.NoError(f, err)
		}
		require.NoError(f, w.Close())
		f.Add(b.Bytes())
		f.Add(b.Bytes()[:514])
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		parent := t.TempDir()
		dir := filepath.Join(parent, "export")
		require.NoError(t, os.Mkdir(dir, 0o700))
		n, err := unpack(bytes.NewReader(raw), dir)
		left, readErr := os.ReadDir(parent)
		require.NoError(t, readErr)
		require.Len(t, left, 1)
		files := 0
		require.NoError(t, filepath.WalkDir(dir, func(_ string, d os.DirEntry, err error) error {
			if err == nil && !d.IsDir() {
				require.True(t, d.Type().IsRegular())
				files++
			}
			return err
		}))
		require.True(t, err != nil || files == n, "%d files of %d", files, n)
	})
}
