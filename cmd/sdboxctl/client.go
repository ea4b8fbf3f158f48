// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"sdbox/cmd/internal/settings"
)

// maxAnswer is the longest answer read from the gateway, in bytes; an audit export is streamed and not held to it.
const maxAnswer = 16 << 20

// maxFile is the longest file of certificates, or signed note, taken, in bytes.
const maxFile = 1 << 20

// config is the file ctl.toml. Relative paths count from the file.
type config struct {
	Gateway     string `toml:"gateway"`     // host:port of the console
	Name        string `toml:"name"`        // the gateway's DNS name when it is not the host of gateway
	Certificate string `toml:"certificate"` // the operator's, PEM
	Key         string `toml:"key"`         // its private key, PEM
	CA          string `toml:"ca"`          // the root that the gateway's certificate leads to, PEM
}

// client speaks the console's API with an operator certificate.
type client struct {
	base string
	http *http.Client
}

func readConfig(path string) (config, error) {
	var c config
	err := settings.Read(path, &c)
	next := settings.Hint(err, "name one with --config; it holds gateway, certificate, key and ca", "the keys are gateway, name, certificate, key and ca")
	switch {
	case errors.Is(err, os.ErrNotExist):
		return c, hint(exitUsage, fmt.Errorf("there is no configuration file %s", path), next)
	case errors.Is(err, settings.ErrUnknown), errors.Is(err, settings.ErrSyntax):
		return c, hint(exitUsage, err, next)
	case err != nil:
		return c, err
	}
	for key, value := range map[string]string{"gateway": c.Gateway, "certificate": c.Certificate, "key": c.Key, "ca": c.CA} {
		if value == "" {
			return c, hint(exitUsage, fmt.Errorf("%s: %s is missing", path, key), "")
		}
	}
	for _, p := range []*string{&c.Certificate, &c.Key, &c.CA} {
		if !filepath.IsAbs(*p) {
			*p = filepath.Join(filepath.Dir(path), *p)
		}
	}
	return c, nil
}

func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(raw) > maxFile {
		err = fmt.Errorf("%s: over %d bytes", path, maxFile)
	}
	return raw, err
}

func newClient(path string) (*client, error) {
	c, err := readConfig(path)
	if err != nil {
		return nil, err
	}
	pair, err := tls.LoadX509KeyPair(c.Certificate, c.Key)
	if err != nil {
		return nil, hint(exitUsage, fmt.Errorf("operator certificate: %w", err), "sdbox-pki issue operator makes certificate, key and ca in one folder")
	}
	roots, err := readRoots(c.CA)
	if err != nil {
		return nil, hint(exitUsage, fmt.Errorf("root certificate: %w", err), "ca names the file ca.pem that sdbox-pki issue operator made")
	}
	if err := checkOperator(pair, c.CA, time.Now()); err != nil {
		return nil, err
	}
	conf := &tls.Config{Certificates: []tls.Certificate{pair}, RootCAs: roots, MinVersion: tls.VersionTLS13, ServerName: c.Name}
	return &client{base: "https://" + c.Gateway, http: &http.Client{
		Timeout:   5 * time.Minute,
		Transport: &http.Transport{TLSClientConfig: conf, ForceAttemptHTTP2: true},
	}}, nil
}

// readRoots takes the self-signed certificates of a file: ca.pem holds the issuing authorities too, which are not anchors here.
func readRoots(path string) (*x509.CertPool, error) {
	text, err := readFile(path)
	if err != nil {
		return nil, err
	}
	roots, found := x509.NewCertPool(), false
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		if cert.CheckSignatureFrom(cert) == nil {
			roots.AddCert(cert)
			found = true
		}
	}
	if !found {
		return nil, fmt.Errorf("%s: no self-signed certificate in it", path)
	}
	return roots, nil
}

// call sends in as JSON (nothing if nil) and decodes the answer into out (not read if nil).
func (c *client) call(ctx context.Context, method, path string, in, out any) error {
	var body io.Reader
	if in != nil {
		raw, err := json.Marshal(in)
		if err != nil {
			return fmt.Errorf("request: %w", err)
		}
		body = bytes.NewReader(raw)
	}
	resp, err := c.send(ctx, method, path, body)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if out == nil {
		return nil
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxAnswer)).Decode(out); err != nil {
		return fmt.Errorf("answer of the gateway: %w", err)
	}
	return nil
}

func (c *client) send(ctx context.Context, method, path string, body io.Reader) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, c.base+"/api/v1/"+path, body)
	if err != nil {
		return nil, fmt.Errorf("request: %w", err)
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := c.http.Do(req)
	if err != nil {
		var u *url.Error
		if errors.As(err, &u) {
			err = u.Err // without the request's address, which says nothing to who asked
		}
		return nil, unanswered(c.base, err)
	}
	if resp.StatusCode < 300 {
		return resp, nil
	}
	defer resp.Body.Close()
	var problem struct{ Error, Hint string }
	raw, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	if err != nil {
		return nil, fmt.Errorf("answer of the gateway: %w", err)
	}
	if json.Unmarshal(raw, &problem) != nil || problem.Error == "" {
		problem.Error = "the gateway answered " + resp.Status
	}
	code := exitFailed
	switch resp.StatusCode {
	case http.StatusBadRequest, http.StatusUnprocessableEntity:
		code = exitUsage
	case http.StatusNotFound, http.StatusGone:
		code = exitNotFound
	case http.StatusUnauthorized, http.StatusForbidden:
		code = exitNotAllowed
	case http.StatusConflict:
		code = exitConflict
	case http.StatusGatewayTimeout:
		code = exitUnreachable
	}
	return nil, hint(code, errors.New(problem.Error), problem.Hint)
}
