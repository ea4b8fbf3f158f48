// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"sdbox/gateway/audit"
	"sdbox/gateway/console"
	"sdbox/gateway/store"
	"sdbox/pki/ca"
	"sdbox/pki/profile"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// fullEnv makes this test run in a mount namespace of its own.
const fullEnv = "SDBOX_GATEWAY_FULL_DISK"

// operatorOf is a client of the gateway's API with an operator's certificate: it returns the status and the body of an answer.
func operatorOf(t *testing.T, g *Gateway) func(method, path string, body any) (int, []byte) {
	cards, err := ca.Open(g.conf.Devices.Dir, profile.Cards, "")
	require.NoError(t, err)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	own, err := cards.Issue(profile.Operator{Name: "olga", Key: key.Public()})
	require.NoError(t, err)
	client := &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{
		RootCAs: g.identity.Trust.Roots(), ServerName: "gw1.lab", Certificates: []tls.Certificate{{Certificate: own.Chain, PrivateKey: key}}}}}
	t.Cleanup(client.CloseIdleConnections)
	return func(method, path string, body any) (int, []byte) {
		text, err := json.Marshal(body)
		require.NoError(t, err)
		request, err := http.NewRequestWithContext(t.Context(), method, "https://"+g.pages.Addr().String()+"/api/v1/"+path, bytes.NewReader(text))
		require.NoError(t, err)
		request.Header.Set("Content-Type", "application/json")
		answer, err := client.Do(request)
		require.NoError(t, err)
		defer answer.Body.Close()
		raw, err := io.ReadAll(answer.Body)
		require.NoError(t, err)
		return answer.StatusCode, raw
	}
}

// What the API acknowledged before the disk was full is there, what it refused is not, it says so, and goes on when there is room.
func TestFullDiskLosesNothingThatTheAPIAcknowledged(t *testing.T) {
	if os.Getenv(fullEnv) == "" {
		again := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
		again.Env = append(os.Environ(), fullEnv+"=1")
		again.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
		out, err := again.CombinedOutput()
		require.NoError(t, err, string(out))
		require.Contains(t, string(out), "--- PASS")
		return
	}
	conf, _ := settle(t)
	conf.State = filepath.Join(t.TempDir(), "small")
	require.NoError(t, os.Mkdir(conf.State, 0o700))
	require.NoError(t, unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
	require.NoError(t, unix.Mount("small", conf.State, "tmpfs", 0, "size=1m"))
	t.Cleanup(func() { require.NoError(t, unix.Unmount(conf.State, unix.MNT_DETACH)) })
	g, stop := run(t, conf)
	api := operatorOf(t, g)
	add := func(i int) (string, int, string) {
		name := fmt.Sprintf("Person %05d %s", i, strings.Repeat("x", 100))
		status, body := api("POST", "people", console.Person{Name: name, Language: "fr"})
		return name, status, string(body)
	}
	known := func() (list []string) {
		status, body := api("GET", "people", nil)
		require.Equal(t, http.StatusOK, status, string(body))
		var people []console.Person
		require.NoError(t, json.Unmarshal(body, &people))
		for _, p := range people {
			list = append(list, p.Name)
		}
		return list
	}
	var acknowledged []string
	i := 0
	for ; i < 5000; i++ {
		name, status, body := add(i)
		if status != http.StatusOK {
			require.Equal(t, http.StatusInsufficientStorage, status, body)
			require.Contains(t, body, "no room")
			require.Contains(t, body, "nothing was changed")
			break
		}
		acknowledged = append(acknowledged, name)
	}
	require.Less(t, i, 5000, "the disk never was full")
	require.NotEmpty(t, acknowledged)
	require.Equal(t, acknowledged, known())
	_, err := Backup(t.Context(), conf, filepath.Join(conf.State, "b"))
	require.ErrorContains(t, err, "backup")
	list, err := filepath.Glob(filepath.Join(conf.State, ".backup-*"))
	require.NoError(t, err)
	require.Empty(t, list)

	require.NoError(t, unix.Mount("small", conf.State, "tmpfs", unix.MS_REMOUNT, "size=64m"))
	for range 3 {
		i++
		name, status, body := add(i)
		require.Equal(t, http.StatusOK, status, body)
		acknowledged = append(acknowledged, name)
	}
	require.Equal(t, acknowledged, known())
	stop()
	_, verifier, err := conf.logKey()
	require.NoError(t, err)
	s, err := store.Open(t.Context(), conf.dsn())
	require.NoError(t, err)
	rows, err := audit.Compare(t.Context(), s, conf.auditDir(), verifier)
	require.NoError(t, err)
	require.Greater(t, rows, int64(len(acknowledged)))
	require.NoError(t, s.Close())
}
