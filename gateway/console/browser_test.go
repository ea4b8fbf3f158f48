// SPDX-License-Identifier: Apache-2.0

package console

import (
	"context"
	"encoding/json"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"sdbox/internal/lab/browser"
	"sdbox/internal/wire"

	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
	"github.com/stretchr/testify/require"
)

// patience is how long an operator waits for anything on a page.
const patience = 15 * time.Second

// seat is an operator with her hands on a keyboard, before the console.
type seat struct {
	*desk
	home string
	page context.Context
	lang string
}

// sitDown opens a browser whose requests reach the console with an operator's certificate, as an operator's own browser would send it.
func (d *desk) sitDown() *seat {
	to, err := url.Parse(d.base)
	require.NoError(d.t, err)
	proxy := &httputil.ReverseProxy{Transport: d.operator().Transport, Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(to)
		r.Out.Host = r.In.Host // the console's own check of origins must hold here too
	}}
	server := &http.Server{Handler: proxy}
	home := d.serve(func(ctx context.Context, ln net.Listener) error {
		stop := context.AfterFunc(ctx, func() { _ = server.Close() }) // a feed never ends by itself
		defer stop()
		if err := server.Serve(ln); err != http.ErrServerClosed {
			return err
		}
		return nil
	})
	page, closing, err := browser.Open(d.t.Context(), d.t.TempDir())
	require.NoError(d.t, err)
	d.t.Cleanup(func() { require.NoError(d.t, closing()) })
	return &seat{desk: d, home: "http://" + home, page: page}
}

// look sets language, colours and window.
func (s *seat) look(lang string, dark bool, width, height int64) {
	s.t.Helper()
	s.lang = lang
	require.NoError(s.t, browser.As(s.page, browser.Look{Language: lang, Zone: "Pacific/Marquesas", Dark: dark, Width: width, Height: height}))
}

func (s *seat) visit(path string) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.page, patience)
	defer cancel()
	require.NoError(s.t, chromedp.Do(ctx, chromedp.Navigate(s.home+path)))
}

// until waits until an expression in the page is true.
func (s *seat) until(expression string) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.page, patience)
	defer cancel()
	if err := browser.Until(ctx, expression); err != nil {
		require.NoError(s.t, err, "the page says: %s", s.text())
	}
}

func (s *seat) ask(expression string) string {
	s.t.Helper()
	answer, err := chromedp.Run(s.page, chromedp.Evaluate[string](expression))
	require.NoError(s.t, err, expression)
	return answer
}

// text is what a person reads, hidden parts left out.
func (s *seat) text() string {
	s.t.Helper()
	return s.ask("document.body.innerText")
}

func (s *seat) press(keys string) {
	s.t.Helper()
	require.NoError(s.t, chromedp.Do(s.page, chromedp.KeyEvent(keys)))
}

func (s *seat) tabTo(selector string) {
	s.t.Helper()
	require.NoError(s.t, browser.TabTo(s.page, selector), "the page says: %s", s.text())
}

func (d *desk) live() (list []Session) {
	_, text := d.do(d.operator(), "GET", "/api/v1/sessions", "")
	require.NoError(d.t, json.Unmarshal([]byte(text), &list))
	return list
}

// noBarriers looks at the page with axe-core in both colours and two windows.
func (s *seat) noBarriers() {
	s.t.Helper()
	for _, dark := range []bool{false, true} {
		s.look(s.lang, dark, 1280, 800)
		found, err := browser.Barriers(s.page)
		require.NoError(s.t, err)
		require.Empty(s.t, found)
	}
	for _, width := range []int64{1280, 390} { // a telephone, too
		s.look(s.lang, false, width, 800)
		wide := s.ask(`String(document.documentElement.scrollWidth <= ` + strconv.FormatInt(width, 10) + `)`)
		require.Equal(s.t, "true", wide, "nothing sticks out to the right")
	}
}

// TestOperatorWorksByKeyboardAlone: the table fills by itself while she looks, shows both times, and from there Tab and Enter
// end a session, never without words.
func TestOperatorWorksByKeyboardAlone(t *testing.T) {
	d := newDesk(t)
	certificate, here := d.set(d.operator())
	s := d.sitDown()
	s.look("en", false, 1600, 1000)
	s.visit("/")
	s.until(`document.querySelector("#live").textContent === "This page updates itself."`)
	require.Contains(t, s.text(), "Nobody is working at the moment.")

	box, person := d.sit(certificate, here)
	s.until(`document.querySelector("#rows th")?.textContent === "Marie <b>Martin</b>"`)
	times := s.ask(`document.querySelector("#rows time").parentElement.innerText`)
	require.Regexp(t, `^\d\d:\d\d:\d\d UTC\n(\w+ \d+, \d+, )?\d\d:\d\d:\d\d local time$`, times)
	began, err := time.Parse("15:04:05 UTC", times[:12])
	require.NoError(t, err)
	require.Contains(t, times, began.Add(-9*time.Hour-30*time.Minute).Format("15:04:05"), "the operator's own clock is 9 h 30 behind")
	require.NotContains(t, s.text(), "Message…", "nobody has logged in yet: nobody would read it")

	s.tabTo("a.cut")
	require.Equal(t, "End session… Marie <b>Martin</b>", s.ask("document.activeElement.textContent"))
	s.press(kb.Enter)
	s.until(`document.activeElement.id === "reason"`)
	require.Contains(t, s.text(), "End the session of Marie <b>Martin</b>?")
	s.tabTo("button.danger")
	require.Equal(t, "End the session of Marie <b>Martin</b>", s.ask("document.activeElement.textContent"))
	s.press(kb.Enter)
	s.until(`document.activeElement.id === "reason" && document.activeElement.validity.valueMissing`)
	require.Len(t, d.live(), 1, "not without a reason")
	s.press("End of the day")
	s.tabTo("button.danger")
	s.press(kb.Enter)
	s.until(`document.querySelector(".done")?.textContent === "The session of Marie <b>Martin</b> has ended."`)
	m, err := box.Read()
	require.NoError(t, err)
	ended, ok := m.(*wire.Ended)
	require.True(t, ok, "%#v", m)
	require.Equal(t, person.Session, ended.Session)
	require.Equal(t, "End of the day", ended.Reason)
	s.until(`document.querySelector("#rows").textContent.includes("Nobody is working")`)
}

// TestPageOfASessionIsTheSignAtTheBox: while an operator has the page of one session open the box says so, and only then; what
// happened is told on the page, and she acts from it by keyboard.
func TestPageOfASessionIsTheSignAtTheBox(t *testing.T) {
	d := newDesk(t)
	certificate, here := d.set(d.operator())
	box, person := d.sit(certificate, here)
	said := func() *wire.Watched {
		t.Helper()
		for {
			m, err := box.Read()
			require.NoError(t, err)
			if w, is := m.(*wire.Watched); is {
				return w
			}
		}
	}
	s := d.sitDown()
	s.look("en", false, 1600, 1000)
	s.visit("/")
	s.until(`document.querySelector("#rows th a")`)
	require.Empty(t, d.live()[0].WatchedBy, "the list of all is no look at one")
	s.tabTo("#rows th a")
	s.press(kb.Enter)
	s.until(`document.querySelector("#live").textContent === "This page updates itself."`)
	require.Equal(t, &wire.Watched{Session: person.Session, On: true}, said())
	require.Equal(t, []string{"anna"}, d.live()[0].WatchedBy)
	s.until(`document.querySelector("dd .eye")?.textContent === "watched by anna"`)
	for _, words := range []string{"Marie <b>Martin</b>", "PARIS-1 (FR)", "card in, waiting for the finger", "watching began", "local time"} {
		require.Contains(t, s.text(), words)
	}
	s.tabTo("a.cut")
	s.press(kb.Enter)
	s.until(`document.activeElement.id === "reason"`)
	require.Equal(t, &wire.Watched{Session: person.Session}, said(), "she has left the page")
	s.visit("/sessions/" + person.Session.String())
	require.True(t, said().On)
	require.Equal(t, 200, d.post(d.operator(), "sessions/"+person.Session.String()+"/cut", Cut{Reason: "End of the day"}, nil))
	s.until(`document.querySelector("#live").textContent === "This session has ended. The page is no longer updated."`)
	require.Contains(t, s.text(), "End of the day")
	require.Contains(t, s.text(), "watching ended")
}

// TestPagesHaveNoBarriers looks at every page as someone who cannot see it, in both languages, light and dark.
func TestPagesHaveNoBarriers(t *testing.T) {
	d := newDesk(t)
	certificate, here := d.set(d.operator())
	_, person := d.sit(certificate, here)
	s := d.sitDown()
	id := person.Session.String()
	for path, words := range map[string][2]string{
		"/":                         {"Live sessions", "Sessions en cours"},
		"/?ended=Marie":             {"has ended", "est terminée"},
		"/boxes":                    {"Proof valid until", "Preuve valable jusqu'à"},
		"/sessions/" + id:           {"the centre is watching", "le centre l'observe"},
		"/sessions/" + id + "/cut":  {"Keep the session", "Garder la session"},
		"/nowhere":                  {"There is no such page", "Cette page n'existe pas"},
		"/sessions/" + id + "/none": {"Back to the live sessions", "Retour aux sessions en cours"},
	} {
		for i, lang := range []string{"en", "fr"} {
			s.look(lang, false, 1600, 1000)
			s.visit(path)
			require.Contains(t, s.text(), words[i], path)
			require.Equal(t, lang, s.ask("document.documentElement.lang"))
			s.noBarriers()
		}
	}
	grounds := map[bool]string{}
	for _, dark := range []bool{false, true} {
		s.look("en", dark, 1280, 800)
		grounds[dark] = s.ask("getComputedStyle(document.body).backgroundColor")
	}
	require.NotEqual(t, grounds[false], grounds[true])
	s.ask(`(document.querySelector("main").insertAdjacentHTML("beforeend", '<img src="/icon.svg"><p style="color: #777; background: #666">unread</p>'), "")`)
	found, err := browser.Barriers(s.page)
	require.NoError(t, err)
	require.Contains(t, strings.Join(found, "\n"), "image-alt", "the test sees a barrier when there is one")
}
