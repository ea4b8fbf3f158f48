// SPDX-License-Identifier: Apache-2.0

package console

import (
	"encoding/hex"
	"errors"
	"net/http"
	"time"

	"sdbox/gateway/releases"
)

// releaseFiles is where the files of releases are sent to.
const releaseFiles = "/api/v1/releases/files/"

// fileTime is how long a file may take to come: 32 MiB at half a megabit a second.
const fileTime = 10 * time.Minute

func shownRelease(k releases.Kept) Release {
	out := Release{Model: k.Model, Version: k.Version, Minimum: k.Minimum, Expires: k.Expires, Offered: k.Offered}
	for _, f := range k.Files {
		out.Files = append(out.Files, ReleaseFile{SHA256: hex.EncodeToString(f.SHA256[:]), Size: f.Size, From: f.From, Present: f.Present})
	}
	return out
}

func (c *Console) releases(r *http.Request) (any, error) {
	kept, err := c.conf.Releases.List(r.Context())
	list := make([]Release, 0, len(kept))
	for _, k := range kept {
		list = append(list, shownRelease(k))
	}
	return list, err
}

// addRelease stores a release that the release keys signed: no operator can make one.
func (c *Console) addRelease(r *http.Request) (any, error) {
	in, err := read[Release](r)
	if err != nil {
		return nil, err
	}
	kept, err := c.conf.Releases.Add(r.Context(), by(r), []byte(in.Note))
	return shownRelease(kept), explainRelease(err)
}

// putReleaseFile takes a file that a stored release names.
func (c *Console) putReleaseFile(r *http.Request) (any, error) {
	hash, err := hex.DecodeString(r.PathValue("sha256"))
	if err != nil || len(hash) != 32 {
		return nil, wrong("the GET of /api/v1/releases lists the files by their SHA-256", "%.80q is no SHA-256", r.PathValue("sha256"))
	}
	return struct{}{}, explainRelease(c.conf.Releases.Put(r.Context(), by(r), [32]byte(hash), r.Body))
}

func (c *Console) offerRelease(r *http.Request) (any, error) {
	in, err := read[ReleaseName](r)
	if err != nil {
		return nil, err
	}
	return struct{}{}, explainRelease(c.conf.Releases.Offer(r.Context(), by(r), in.Model, in.Version))
}

func (c *Console) retireRelease(r *http.Request) (any, error) {
	in, err := read[ReleaseName](r)
	if err != nil {
		return nil, err
	}
	return struct{}{}, c.conf.Releases.Retire(r.Context(), by(r), in.Model, in.Version, in.Reason)
}

// explainRelease says what to do about a release that was not taken.
func explainRelease(err error) error {
	for sentinel, next := range map[error]string{
		releases.ErrNote:    "sdbox-image release make and release sign make one; the release keys are those of this gateway's configuration",
		releases.ErrFile:    "the files are those that were made with the signed note",
		releases.ErrMissing: "sdboxctl release add NOTE FILE... hands in what is missing",
		releases.ErrMany:    "sdboxctl release retire ends one that no box needs any more",
		releases.ErrBusy:    "try again when it is stored",
	} {
		if errors.Is(err, sentinel) {
			return wrong(next, "%v", err)
		}
	}
	return err
}
