// SPDX-License-Identifier: Apache-2.0

package console

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"testing"
	"time"

	"sdbox/firmware/reference"
	"sdbox/firmware/release"

	"github.com/stretchr/testify/require"
)

// releaseOf is the signed note of a release of one file.
func (d *desk) releaseOf(full []byte) string {
	image := release.Digest{SHA256: [32]byte{1}, Size: 512}
	note, err := release.Sign(release.Release{Model: "lab", Version: "2026.11.24", Minimum: "2026.11.24", Expires: time.Now().Add(time.Hour).Truncate(time.Second), Image: image,
		UKI: image, Full: release.Digest{SHA256: sha256.Sum256(full), Size: int64(len(full))}, PCRs: []reference.PCR{{Index: 4}}}, d.release)
	require.NoError(d.t, err)
	return string(note)
}

func TestOperatorHandsInAReleaseAndOffersIt(t *testing.T) {
	d := newDesk(t)
	c := d.operator()
	full := make([]byte, 2<<20) // longer than any other body
	hash := sha256.Sum256(full)
	file := releaseFiles + hex.EncodeToString(hash[:])
	status, text := d.do(c, "PUT", file, string(full))
	require.Equal(t, 422, status, text)
	var r Release
	require.Equal(t, 200, d.post(c, "releases", Release{Note: d.releaseOf(full)}, &r))
	require.Equal(t, []ReleaseFile{{SHA256: hex.EncodeToString(hash[:]), Size: 2 << 20}}, r.Files)
	name := ReleaseName{Model: "lab", Version: "2026.11.24"}
	require.Equal(t, 422, d.post(c, "releases/offer", name, nil), "a file is missing")
	status, text = d.do(c, "PUT", file, string(full[1:]))
	require.Equal(t, 422, status, text)
	status, text = d.do(c, "PUT", file, string(full))
	require.Equal(t, 200, status, text)
	require.Equal(t, 200, d.post(c, "releases/offer", name, nil))
	_, text = d.do(c, "GET", "/api/v1/releases", "")
	var list []Release
	require.NoError(t, json.Unmarshal([]byte(text), &list))
	require.Len(t, list, 1)
	require.True(t, list[0].Offered && list[0].Files[0].Present)
	require.Equal(t, 422, d.post(c, "releases/retire", name, nil), "a reason is missing")
	name.Reason = "replaced"
	require.Equal(t, 200, d.post(c, "releases/retire", name, nil))
	require.Equal(t, 404, d.post(c, "releases/offer", name, nil))
	require.Equal(t, 422, d.post(c, "releases", Release{Note: "no note"}, nil))
}
