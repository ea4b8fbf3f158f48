// SPDX-License-Identifier: Apache-2.0

package house

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"sdbox/gateway/console"
)

// ConsoleAddress is where the gateway's console listens, inside its place.
const ConsoleAddress = "127.0.0.1:8443"

// answerMax bounds an answer of the console's API, in bytes.
const answerMax = 4 << 20

// Console is the lab operator's way to the gateway's console.
type Console struct {
	TLS    *tls.Config // with the operator's certificate, for the gateway's name
	client *http.Client
	place  *Place
}

// openConsole reads an operator's cert.pem, key.pem and ca.pem.
func openConsole(place *Place, dir, serverName string) (*Console, error) {
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"))
	if err != nil {
		return nil, fmt.Errorf("operator's certificate: %w", err)
	}
	ca, err := os.ReadFile(filepath.Join(dir, "ca.pem"))
	if err != nil {
		return nil, fmt.Errorf("operator's certificate: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(ca) {
		return nil, errors.New("operator's certificate: no root in ca.pem")
	}
	c := &Console{place: place, TLS: &tls.Config{
		Certificates: []tls.Certificate{pair}, RootCAs: roots, ServerName: serverName, MinVersion: tls.VersionTLS13,
	}}
	c.client = &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{DialContext: c.Dial, TLSClientConfig: c.TLS, ForceAttemptHTTP2: true}}
	return c, nil
}

// Dial reaches the console from inside the gateway's place, whatever the address says.
func (c *Console) Dial(ctx context.Context, _, _ string) (net.Conn, error) {
	return c.place.Dial(ctx, "tcp", ConsoleAddress)
}

// Sessions lists the live sessions.
func (c *Console) Sessions(ctx context.Context) ([]console.Session, error) {
	var list []console.Session
	return list, c.call(ctx, http.MethodGet, "/api/v1/sessions", nil, &list)
}

// Cut ends a session; the person reads the reason.
func (c *Console) Cut(ctx context.Context, session, reason string) error {
	return c.call(ctx, http.MethodPost, "/api/v1/sessions/"+session+"/cut", console.Cut{Reason: reason}, nil)
}

func (c *Console) call(ctx context.Context, method, path string, in, out any) error {
	body, err := json.Marshal(in)
	if err != nil {
		return err
	}
	request, err := http.NewRequestWithContext(ctx, method, "https://"+ConsoleAddress+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", "application/json")
	answer, err := c.client.Do(request)
	if err != nil {
		return fmt.Errorf("console: %w", err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(io.LimitReader(answer.Body, answerMax))
	if err != nil {
		return fmt.Errorf("console: %w", err)
	}
	if answer.StatusCode/100 != 2 {
		return fmt.Errorf("console: %s %s: %s: %.300s", method, path, answer.Status, text)
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(text, out); err != nil {
		return fmt.Errorf("console: %s %s: %w", method, path, err)
	}
	return nil
}
