// SPDX-License-Identifier: Apache-2.0

package console

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"sdbox/firmware/reference"
	"sdbox/internal/ident"
	"sdbox/pki/profile"

	"github.com/stretchr/testify/require"
)

// Whatever a browser or an operator sends: a language we speak, and a reason that is short, whole UTF-8 on one line.
func FuzzHeaderAndReason(f *testing.F) {
	for _, s := range []string{"", "fr;q=0.5,en", ";;;,,,q=", "fr;q=NaN", "a\r\nb\x00c\xff", strings.Repeat("é", 201)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		lang := language(s)
		require.Contains(t, []string{"fr", "en"}, string(lang))
		if reason, err := checkWords("reason", s); err == nil {
			require.True(t, utf8.ValidString(reason))
			require.NotContains(t, reason, "\n")
			require.LessOrEqual(t, utf8.RuneCountInString(reason), maxWords)
		}
	})
}

// FuzzAPI is an operator whose program sends anything: no answer is the gateway's own failure, and each refusal says what is wrong.
func FuzzAPI(f *testing.F) {
	d := newDesk(f)
	_, here := d.set(d.operator())
	key := newKey(f)
	seen := &tls.ConnectionState{PeerCertificates: []*x509.Certificate{d.issue(profile.Operator{Name: "anna", Key: key.Public()}, key).Leaf}}
	note, err := reference.Sign(reference.Values{Name: "sdbox", Version: "2", PCRs: []reference.PCR{{Index: 7, Digest: [32]byte{1}}}}, d.release)
	require.NoError(f, err)
	nine := asPEM(d.issue(profile.CardAuth{GUID: ident.GUID{9}, Name: "Zoe", Method: profile.FingerOnCard, Key: key.Public()}, key))
	ninth := asPEM(d.issue(profile.CardPresence{GUID: ident.GUID{9}, Key: here.Public()}, here))
	person := ident.ID{7}.String()
	for path, bodies := range map[string][]any{
		"boxes": {Box{Serial: "PARIS-2", EK: strings.Repeat("cd", 32), Country: "FR", Model: "lab", Site: "Paris", Outer: []string{"192.0.2.0/24"}}, Box{EK: "x"},
			Box{EK: strings.Repeat("cd", 32), Outer: []string{"x"}}},
		"memberships/remove":   {Removal{Person: person, Bubble: "epi", Reason: "left"}, Removal{Person: "x"}},
		"references/retire":    {Retirement{Name: "sdbox 2", Reason: "old"}, Retirement{}},
		"boxes/PARIS-1/retire": {Reason{Reason: "sold"}, Reason{}},
		"people":               {Person{ID: person, Name: "Zoe", Language: "fr"}, Person{ID: "x"}},
		"cards": {Card{Person: person, Certificate: nine, Presence: ninth}, Card{Person: "x"}, Card{Person: person}, Card{Person: person, Certificate: ninth},
			Card{Person: person, Certificate: nine}, Card{Person: person, Certificate: nine, Presence: nine}},
		"cards/" + ident.GUID{1}.String() + "/revoke": {Reason{Reason: "lost"}},
		"cards/x/revoke":  {Reason{Reason: "lost"}},
		"bubbles":         {Bubble{Name: "epi", Title: "Epi", Colour: "#1b6fb8", Address: "epi:7443", Account: "zoe", Countries: []string{"FR"}}, Bubble{Colour: "red"}},
		"memberships":     {Membership{Person: person, Bubble: "epi", Account: "zoe"}, Membership{Person: "x"}},
		"references":      {Reference{Model: "lab", Note: string(note)}, Reference{Note: "x"}},
		"releases":        {Release{Note: d.releaseOf([]byte("full"))}, Release{Note: "x"}},
		"releases/offer":  {ReleaseName{Model: "lab", Version: "2026.11.24"}, ReleaseName{}},
		"releases/retire": {ReleaseName{Model: "lab", Version: "2026.11.24", Reason: "old"}, ReleaseName{Model: "lab", Version: "2026.11.24"}},
		"locks":           {Lock{Target: "site:Paris", Message: "closed"}, Lock{}},
		"locks/" + ident.ID{5}.String() + "/lift": {Reason{Reason: "open"}},
		"locks/x/lift":                    {Reason{Reason: "open"}},
		"sessions/" + person + "/cut":     {Cut{Reason: "over"}, Cut{}, 7},
		"sessions/x/cut":                  {Cut{Reason: "over"}},
		"sessions/" + person + "/message": {Message{Text: "hello"}, Message{}},
	} {
		for _, body := range bodies {
			raw, err := json.Marshal(body)
			require.NoError(f, err)
			f.Add("POST", path, raw)
			f.Add("POST", path, append(raw, raw...))
			f.Add("POST", path, append([]byte(`{"what":1},`), raw...))
		}
	}
	for _, path := range []string{"boxes", "people", "cards", "bubbles", "memberships", "references", "releases", "locks", "sessions", "refusals/C05-7K2", "refusals/X",
		"boxes/PARIS-1/ping", "boxes/NONE-1/ping"} {
		f.Add("GET", path, []byte{})
	}
	full := sha256.Sum256([]byte("full"))
	_, err = d.console.conf.Releases.Add(f.Context(), "operator:anna", []byte(d.releaseOf([]byte("full"))))
	require.NoError(f, err)
	f.Add("PUT", "releases/files/"+hex.EncodeToString(full[:]), []byte("fall"))
	f.Add("PUT", "releases/files/"+hex.EncodeToString(full[:]), []byte("full"))
	f.Add("PUT", "releases/files/x", []byte("full"))
	f.Fuzz(func(t *testing.T, method, path string, body []byte) {
		if method != "GET" && method != "POST" && method != "PUT" || strings.Contains(path, "audit") {
			return
		}
		r, err := http.NewRequestWithContext(t.Context(), method, "https://gw1.lab/api/v1/"+path, bytes.NewReader(body))
		if err != nil {
			return
		}
		r.Header.Set("Content-Type", "application/json")
		r.TLS = seen
		w := recorder{httptest.NewRecorder()}
		d.console.handler.ServeHTTP(w, r)
		require.True(t, w.Code < 500 || w.Code == http.StatusGatewayTimeout, "%d %s", w.Code, w.Body)
		if w.Code == http.StatusOK || w.Header().Get("Content-Type") == "application/json" {
			require.True(t, json.Valid(w.Body.Bytes()), "%s", w.Body)
		}
	})
}

// recorder takes a deadline as a connection does.
type recorder struct{ *httptest.ResponseRecorder }

func (recorder) SetReadDeadline(time.Time) error { return nil }
