// SPDX-License-Identifier: Apache-2.0

package page

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"image"
	"image/png"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"sdbox/agent/screen"
	"sdbox/internal/lab/house"

	"github.com/stretchr/testify/require"
)

// TestBandsRebuildTheScreen: what the stream sends makes the browser's picture equal to the screen, pixel for pixel.
func TestBandsRebuildTheScreen(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	before, now := screen.NewImage(320, 200), screen.NewImage(320, 200)
	shown := image.NewRGBA(before.Bounds())
	var previous *screen.Image
	for range 60 {
		for range r.IntN(4) {
			now.Fill(image.Rect(r.IntN(320), r.IntN(200), r.IntN(320), r.IntN(200)), r.Uint32()&0xffffff)
		}
		for _, band := range changed(previous, now) {
			message, err := encode(now, band)
			require.NoError(t, err)
			apply(t, shown, message)
		}
		require.Equal(t, now.RGBA().Pix, shown.Pix)
		before.Copy(now, now.Bounds())
		previous = before
	}
	require.Empty(t, changed(before, now), "nothing is sent while nothing changes")
}

// apply does what the browser does with one message.
func apply(t *testing.T, shown *image.RGBA, message []byte) {
	require.Len(t, message, 4+int(binary.LittleEndian.Uint32(message)))
	x, y := int(binary.LittleEndian.Uint16(message[8:])), int(binary.LittleEndian.Uint16(message[10:]))
	part, err := png.Decode(bytes.NewReader(message[12:]))
	require.NoError(t, err)
	for dy := range part.Bounds().Dy() {
		for dx := range part.Bounds().Dx() {
			shown.Set(x+dx, y+dy, part.At(dx, dy))
		}
	}
}

// TestStreamFollowsTheScreen reads the first message of a stream of a real screen file.
func TestStreamFollowsTheScreen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "screen")
	s, err := screen.OpenFile(path, 64, 48)
	require.NoError(t, err)
	defer s.Close()
	ctx, cancel := context.WithCancel(t.Context())
	out := make(chan []byte, 64)
	ended := make(chan error, 1)
	go func() {
		ended <- streamScreen(ctx, path, sink(out), func() error { return nil })
	}()
	shown := image.NewRGBA(s.Image().Bounds())
	apply(t, shown, <-out)
	s.Image().Fill(image.Rect(10, 10, 20, 20), 0x123456)
	require.NoError(t, s.Flush(image.Rect(10, 10, 20, 20)))
	apply(t, shown, <-out)
	require.Equal(t, s.Image().RGBA().Pix, shown.Pix)
	cancel()
	require.ErrorIs(t, <-ended, context.Canceled)
}

type sink chan []byte

func (s sink) Write(b []byte) (int, error) {
	s <- bytes.Clone(b)
	return len(b), nil
}

// TestStrangersAreRefused: another Host (DNS rebinding) and requests from pages of other origins get nothing done.
func TestStrangersAreRefused(t *testing.T) {
	lab, err := New(&house.Site{Tray: &house.Tray{}}, "http://127.0.0.1:8081/")
	require.NoError(t, err)
	h := lab.Handler("127.0.0.1:8080")
	ask := func(method, host, origin, path, body string) *httptest.ResponseRecorder {
		r := httptest.NewRequest(method, "http://"+host+path, strings.NewReader(body))
		if origin != "" {
			r.Header.Set("Origin", origin)
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		return w
	}
	require.Equal(t, http.StatusOK, ask("GET", "127.0.0.1:8080", "", "/state", "").Code)
	require.Equal(t, http.StatusMisdirectedRequest, ask("GET", "evil.example:8080", "", "/state", "").Code)
	require.Equal(t, http.StatusForbidden, ask("POST", "127.0.0.1:8080", "http://evil.example", "/boxes/X/input", "[]").Code)
	require.Equal(t, http.StatusNotFound, ask("POST", "127.0.0.1:8080", "http://127.0.0.1:8080", "/boxes/X/input", "[]").Code)
	require.Equal(t, http.StatusBadRequest, ask("POST", "127.0.0.1:8080", "", "/cards/not-a-guid", "{}").Code)
}

// TestBadInputIsNotSent lists requests that must not become input events.
func TestBadInputIsNotSent(t *testing.T) {
	for _, e := range []inputEvent{{Kind: "key"}, {Kind: "key", Code: 300, Down: 1}, {Kind: "key", Code: 30, Down: 3}, {Kind: "move", X: -1},
		{Kind: "move", Y: 40000}, {Kind: "button", Button: "fourth"}, {Kind: "dance"}, {}} {
		_, err := e.raw()
		require.Error(t, err, "%+v", e)
	}
	raw, err := inputEvent{Kind: "key", Code: 30, Down: 1}.raw()
	require.NoError(t, err)
	require.Len(t, raw, 2)
}

// TestOperatorsLinkWorksOnce: looking at the link changes nothing, its exchange opens the console with the operator's
// certificate, a second exchange and a stranger's browser get nowhere.
func TestOperatorsLinkWorksOnce(t *testing.T) {
	console := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, "console for "+r.TLS.PeerCertificates[0].Subject.Organization[0]+" cookie "+r.Header.Get("Cookie"))
	}))
	console.TLS = &tls.Config{ClientAuth: tls.RequireAnyClientCert}
	console.StartTLS()
	defer console.Close()
	roots := x509.NewCertPool()
	roots.AddCert(console.Certificate())

	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	o, err := NewOperators(l.Addr().String(), Console{
		Address: console.Listener.Addr().String(), ServerName: "example.com", DialContext: (&net.Dialer{}).DialContext,
		TLS: &tls.Config{RootCAs: roots, Certificates: console.TLS.Certificates, MinVersion: tls.VersionTLS13},
	})
	require.NoError(t, err)
	proxy := &httptest.Server{Listener: l, Config: &http.Server{Handler: o.Handler()}}
	proxy.Start()
	defer proxy.Close()

	jar, err := cookiejar.New(nil)
	require.NoError(t, err)
	browser, stranger := &http.Client{Jar: jar}, &http.Client{}
	fetch := func(c *http.Client, path string) (int, string) {
		answer, err := c.Get("http://" + l.Addr().String() + path)
		require.NoError(t, err)
		defer answer.Body.Close()
		body, err := io.ReadAll(answer.Body)
		require.NoError(t, err)
		return answer.StatusCode, string(body)
	}
	code, _ := fetch(browser, "/")
	require.Equal(t, http.StatusForbidden, code)

	link := o.Link()
	for range 2 {
		_, page := fetch(browser, strings.TrimPrefix(link, "http://"+l.Addr().String()))
		require.Regexp(t, regexp.MustCompile(`method="post" action="/enter"`), page)
	}
	token := link[strings.Index(link, "=")+1:]
	answer, err := browser.PostForm("http://"+l.Addr().String()+"/enter", url.Values{"link": {token}})
	require.NoError(t, err)
	body, err := io.ReadAll(answer.Body)
	require.NoError(t, err)
	require.NoError(t, answer.Body.Close())
	require.Equal(t, "console for Acme Co cookie ", string(body), "the proxy's certificate, and not its cookie, reaches the gateway")

	for _, c := range []*http.Client{browser, stranger} {
		answer, err := c.PostForm("http://"+l.Addr().String()+"/enter", url.Values{"link": {token}})
		require.NoError(t, err)
		require.NoError(t, answer.Body.Close())
		require.Equal(t, http.StatusForbidden, answer.StatusCode)
	}
	code, _ = fetch(stranger, "/")
	require.Equal(t, http.StatusForbidden, code)
}

func TestMain(m *testing.M) {
	house.Main()
	os.Exit(m.Run())
}

func FuzzInput(f *testing.F) {
	for _, seed := range []string{
		`[{"kind":"key","code":30,"down":1},{"kind":"move","x":7,"y":32767},{"kind":"button","button":"left","down":1},{"kind":"wheel","steps":-99}]`,
		`[{"kind":"key","code":300}]`, `[{"kind":"move","x":-1}]`, `[{"kind":"button","button":"fourth"}]`, `[{"kind":"dance"}]`, `[{"kid":1}]`, `{`,
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, body string) {
		var events []inputEvent
		w := httptest.NewRecorder()
		if !read(w, httptest.NewRequest("POST", "/boxes/B/input", strings.NewReader(body)), &events) {
			require.Equal(t, http.StatusBadRequest, w.Code)
			return
		}
		for _, e := range events {
			raws, err := e.raw()
			require.True(t, err != nil || len(raws) > 0 && len(raws) <= 3, "%+v: %d events", e, len(raws))
		}
	})
}
