// SPDX-License-Identifier: Apache-2.0

// Package browser puts a person with a real Chromium before the pages of sdbox: her language, her light or dark setting, her
// screen; and looks at what she sees with axe-core, as someone would who cannot see it.
package browser

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
)

// program is Chromium of the Debian package chromium.
const program = "/usr/bin/chromium"

// maxTabs is more than any page of sdbox has places to stop at.
const maxTabs = 60

// Open starts a Chromium that knows nothing yet, with its files in the folder dir, and returns the context of its first page.
// Closing ends it and waits for it.
func Open(ctx context.Context, dir string) (page context.Context, closing func() error, err error) {
	if _, err := os.Stat(program); err != nil {
		return nil, nil, fmt.Errorf("browser (package chromium): %w", err)
	}
	allocator, drop := chromedp.NewExecAllocator(ctx, chromedp.ExecPath(program), chromedp.UserDataDir(filepath.Join(dir, "chromium")),
		chromedp.Headless, chromedp.NoSandbox, chromedp.DisableGPU, chromedp.NoFirstRun,
		chromedp.Flag("disable-quic", true), chromedp.Flag("disable-background-networking", true), chromedp.Flag("disable-component-update", true),
		chromedp.Flag("disable-sync", true), chromedp.Flag("disable-dev-shm-usage", true))
	page, leave := chromedp.NewContext(allocator)
	if err := chromedp.Do(page); err != nil {
		leave()
		drop()
		return nil, nil, fmt.Errorf("browser: start: %w", err)
	}
	return page, func() error {
		err := chromedp.Cancel(page)
		leave()
		drop()
		if err != nil && !errors.Is(err, context.Canceled) {
			return fmt.Errorf("browser: close: %w", err)
		}
		return nil
	}, nil
}

// Look is what a person's browser tells a page about her.
type Look struct {
	Language      string // of Accept-Language
	Zone          string // of her clock, as IANA names it
	Dark          bool
	Width, Height int64 // of the window's inside, in pixels
}

// Until waits until a JavaScript expression of the page is true, across navigations, or ctx ends.
func Until(page context.Context, expression string) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		is, err := chromedp.Run(page, chromedp.Evaluate[bool]("Boolean("+expression+")"))
		if is {
			return nil
		}
		select {
		case <-tick.C: // an error is a page on its way to the next one, until patience ends
		case <-page.Done():
			return fmt.Errorf("browser: %s: %w", expression, errors.Join(page.Err(), err))
		}
	}
}

// TabTo presses Tab until the focus is where a selector says, and shown there by an outline: what no Tab reaches, nobody without a
// mouse can use.
func TabTo(page context.Context, selector string) error {
	shown := fmt.Sprintf(`document.activeElement.matches(%q) && getComputedStyle(document.activeElement).outlineStyle === "solid"`, selector)
	for range maxTabs {
		if err := chromedp.Do(page, chromedp.KeyEvent(kb.Tab)); err != nil {
			return fmt.Errorf("browser: %w", err)
		}
		is, err := chromedp.Run(page, chromedp.Evaluate[bool](shown))
		if err != nil {
			return fmt.Errorf("browser: %s: %w", shown, err)
		}
		if is {
			return nil
		}
	}
	return fmt.Errorf("browser: %d times Tab and not yet at %s", maxTabs, selector)
}

// As gives the page a look, from the next navigation on. Nothing moves: what is looked at is what stays.
func As(page context.Context, l Look) error {
	scheme := "light"
	if l.Dark {
		scheme = "dark"
	}
	_, err1 := chromedp.Call(page, network.Enable, network.EnableParams{})
	_, err2 := chromedp.Call(page, network.SetExtraHTTPHeaders, network.SetExtraHTTPHeadersParams{Headers: network.Headers{"Accept-Language": l.Language}})
	_, err3 := chromedp.Call(page, emulation.SetTimezoneOverride, emulation.SetTimezoneOverrideParams{TimezoneID: l.Zone})
	_, err4 := chromedp.Call(page, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
		Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}, {Name: "prefers-reduced-motion", Value: "reduce"}},
	})
	if err := errors.Join(err1, err2, err3, err4, chromedp.Do(page, chromedp.EmulateViewport(l.Width, l.Height))); err != nil {
		return fmt.Errorf("browser: look: %w", err)
	}
	return nil
}

// finding is what axe-core says of one rule (axe-core API, "Results Object").
type finding struct {
	ID     string `json:"id"`
	Impact string `json:"impact"`
	Help   string `json:"help"`
	Nodes  []struct {
		HTML    string `json:"html"`
		Summary string `json:"failureSummary"`
	} `json:"nodes"`
}

// Barriers are what axe-core finds serious or critical in the page as it is, one line each; none is what is wanted.
func Barriers(page context.Context) ([]string, error) {
	script, err := axe()
	if err != nil {
		return nil, err
	}
	var found []finding
	err = chromedp.Do(page, chromedp.Evaluate[chromedp.Void](string(script)+"; undefined"))
	if err != nil {
		return nil, fmt.Errorf("browser: axe-core: %w", err)
	}
	raw, err := chromedp.Run(page, chromedp.Evaluate[string](`axe.run(document, { resultTypes: ["violations"] }).then((r) => JSON.stringify(r.violations))`, chromedp.EvalAwaitPromise))
	if err != nil {
		return nil, fmt.Errorf("browser: axe-core: %w", err)
	}
	if err := json.Unmarshal([]byte(raw), &found); err != nil {
		return nil, fmt.Errorf("browser: axe-core: %w", err)
	}
	var lines []string
	for _, f := range found {
		if f.Impact != "serious" && f.Impact != "critical" {
			continue
		}
		for _, n := range f.Nodes {
			lines = append(lines, fmt.Sprintf("%s, %s: %s: %s: %s", f.Impact, f.ID, f.Help, n.HTML, strings.Join(strings.Fields(n.Summary), " ")))
		}
	}
	return lines, nil
}

// axe reads axe-core from test/axe, looked for from the working folder upwards.
func axe() ([]byte, error) {
	dir, err := os.Getwd()
	if err != nil {
		return nil, err
	}
	for at := dir; ; at = filepath.Dir(at) {
		script, err := os.ReadFile(filepath.Join(at, "test/axe/node_modules/axe-core/axe.min.js"))
		if err == nil || at == filepath.Dir(at) {
			if err != nil {
				err = fmt.Errorf("browser: axe-core is not there, scripts/axe.sh fetches it: %w", err)
			}
			return script, err
		}
	}
}
