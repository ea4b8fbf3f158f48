// SPDX-License-Identifier: Apache-2.0

package console

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"
	"unicode/utf8"

	"sdbox/gateway/registry"
	"sdbox/internal/refusal"
)

// The bounds of an operator's words, a reason or a message, in characters. They are shown on the box's screen.
const (
	minWords = 3
	maxWords = 200
)

// feedInterval is how often an open page is looked at even when no session changed: the delays move by themselves.
const feedInterval = 2 * time.Second

// view is what a page's template reads.
type view struct {
	Lang              refusal.Lang
	Words             words
	Title, Page       string
	Operator, Gateway string
	Done, Problem     string
	Sessions          []Session
	Boxes             []Box
	Session           Session
	Past              []Past // of the session
	Text, Confirm     string
}

func (c *Console) routePages(mux *http.ServeMux) {
	mux.HandleFunc("GET /{$}", c.sessionsPage)
	mux.HandleFunc("GET /events", c.feed)
	mux.HandleFunc("GET /boxes", c.boxesPage)
	mux.HandleFunc("GET /sessions/{id}", c.sessionPage)
	mux.HandleFunc("GET /sessions/{id}/events", c.watchFeed)
	mux.HandleFunc("GET /sessions/{id}/cut", c.cutPage)
	mux.HandleFunc("POST /sessions/{id}/cut", c.cutForm)
	mux.HandleFunc("GET /sessions/{id}/message", c.messagePage)
	mux.HandleFunc("POST /sessions/{id}/message", c.messageForm)
	for _, f := range []struct{ name, kind string }{
		{"style.css", "text/css; charset=utf-8"}, {"console.js", "text/javascript; charset=utf-8"}, {"icon.svg", "image/svg+xml"},
	} {
		mux.HandleFunc("GET /"+f.name, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", f.kind)
			w.Header().Set("Cache-Control", "max-age=300")
			http.ServeFileFS(w, r, files, "page/"+f.name)
		})
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/api/") {
			c.answerProblem(w, r, http.StatusNotFound, errors.New("there is no such address in this API"), "")
			return
		}
		v := c.view(r, "")
		v.Title, v.Problem = v.Words.NotFound, v.Words.NotFoundText
		c.render(w, http.StatusNotFound, "problem", v)
	})
}

func (c *Console) view(r *http.Request, page string) view {
	lang := language(r.Header.Get("Accept-Language"))
	return view{Lang: lang, Words: wordsFor(lang), Page: page, Operator: operator(r), Gateway: c.conf.Gateway}
}

// render writes a whole page or, if the template fails, none of it.
func (c *Console) render(w http.ResponseWriter, status int, name string, v view) {
	var b bytes.Buffer
	if err := c.pages.ExecuteTemplate(&b, name, v); err != nil {
		c.log.Error("page", "room", "console", "page", name, "err", err)
		http.Error(w, "this page failed", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Vary", "Accept-Language")
	w.WriteHeader(status)
	if _, err := w.Write(b.Bytes()); err != nil {
		c.log.Debug("page", "room", "console", "page", name, "err", err) // the reader went away
	}
}

func (c *Console) sessionsPage(w http.ResponseWriter, r *http.Request) {
	v := c.view(r, "sessions")
	v.Title, v.Sessions = v.Words.Sessions, c.sessions()
	query := r.URL.Query()
	for key, words := range map[string]string{"ended": v.Words.CutDone, "told": v.Words.TellDone} {
		if name := query.Get(key); name != "" && len(name) <= 200 {
			v.Done = fmt.Sprintf(words, name)
		}
	}
	c.render(w, http.StatusOK, "sessions", v)
}

func (c *Console) boxesPage(w http.ResponseWriter, r *http.Request) {
	v := c.view(r, "boxes")
	boxes, err := c.boxes(r.Context())
	if err != nil {
		c.failed(w, r, err)
		return
	}
	v.Title, v.Boxes = v.Words.Boxes, boxes
	c.render(w, http.StatusOK, "boxes", v)
}

// feed keeps the table of the live sessions true.
func (c *Console) feed(w http.ResponseWriter, r *http.Request) {
	v := c.view(r, "sessions")
	c.stream(w, r, func() ([]byte, bool) {
		v.Sessions = c.sessions()
		var rows bytes.Buffer
		if err := c.pages.ExecuteTemplate(&rows, "rows", v); err != nil {
			c.log.Error("page", "room", "console", "page", "rows", "err", err)
			return nil, false
		}
		return rows.Bytes(), false
	})
}

// stream sends a part of a page whenever it differs from the one sent before (server-sent events, WHATWG HTML 9.2), until the page
// is closed or draw says that this was the last. Nothing drawn, and more to come, is a fault of ours: the page tries again.
func (c *Console) stream(w http.ResponseWriter, r *http.Request, draw func() (part []byte, last bool)) {
	select {
	case c.feeds <- struct{}{}:
		defer func() { <-c.feeds }()
	default:
		http.Error(w, "too many open pages", http.StatusServiceUnavailable)
		return
	}
	h := w.Header()
	h.Set("Content-Type", "text/event-stream")
	control := http.NewResponseController(w)
	tick := time.NewTicker(feedInterval)
	defer tick.Stop()
	var before []byte
	for {
		changed := c.conf.Sessions.Changes()
		part, last := draw()
		if part == nil && !last {
			return
		}
		text := ":\n\n" // a comment keeps the connection alive
		if part != nil && !bytes.Equal(part, before) {
			before = part
			line, err := json.Marshal(string(part))
			if err != nil {
				return
			}
			text = "event: rows\ndata: " + string(line) + "\n\n"
		}
		if last {
			text += "event: over\ndata:\n\n"
		}
		if control.SetWriteDeadline(time.Now().Add(10*time.Second)) != nil {
			return
		}
		if _, err := w.Write([]byte(text)); err != nil || control.Flush() != nil || last {
			return
		}
		select {
		case <-r.Context().Done():
			return
		case <-changed:
		case <-tick.C:
		}
	}
}

func (c *Console) cutPage(w http.ResponseWriter, r *http.Request) {
	if s, ok := c.found(w, r, Session.CanCut); ok {
		c.askCut(w, r, http.StatusOK, s, "", "")
	}
}

func (c *Console) askCut(w http.ResponseWriter, r *http.Request, status int, s Session, text, problem string) {
	v := c.view(r, "sessions")
	v.Title = fmt.Sprintf(v.Words.CutTitle, s.Person)
	v.Session, v.Text, v.Problem, v.Confirm = s, text, problem, v.Words.cutConfirm(s.Person, s.Title)
	c.render(w, status, "cut", v)
}

func (c *Console) cutForm(w http.ResponseWriter, r *http.Request) {
	s, ok := c.found(w, r, Session.CanCut)
	if !ok {
		return
	}
	reason, err := checkWords("reason", r.PostFormValue("reason"))
	if err != nil {
		c.askCut(w, r, http.StatusUnprocessableEntity, s, reason, c.view(r, "").Words.ReasonMissing)
		return
	}
	if err := c.cut(r, reason); err != nil {
		c.failed(w, r, err)
		return
	}
	http.Redirect(w, r, "/?ended="+url.QueryEscape(s.Person), http.StatusSeeOther)
}

// checkWords makes one line of an operator's words, a "reason" or a "message", and holds them to their bounds.
func checkWords(kind, text string) (string, error) {
	line := strings.Join(strings.Fields(registry.Plain(strings.Join(strings.Fields(strings.ToValidUTF8(text, "")), " "))), " ")
	if n := utf8.RuneCountInString(line); n < minWords || n > maxWords {
		return line, fmt.Errorf("a %s of %d to %d characters is needed, this one has %d", kind, minWords, maxWords, n)
	}
	return line, nil
}

// found is the session a page is about, if it can be acted upon so, or an answer that there is none.
func (c *Console) found(w http.ResponseWriter, r *http.Request, can func(Session) bool) (Session, bool) {
	for _, s := range c.sessions() {
		if s.ID == r.PathValue("id") && can(s) {
			return s, true
		}
	}
	v := c.view(r, "")
	v.Title, v.Problem = v.Words.NotFound, v.Words.NotFoundText
	c.render(w, http.StatusNotFound, "problem", v)
	return Session{}, false
}

func (c *Console) failed(w http.ResponseWriter, r *http.Request, err error) {
	v := c.view(r, "")
	v.Title, v.Problem = v.Words.NotFound, v.Words.Failed
	status := http.StatusInternalServerError
	switch {
	case isGone(err):
		status, v.Problem = http.StatusGone, v.Words.Gone
	case isAway(err):
		status, v.Problem = http.StatusConflict, v.Words.Nobody
	}
	c.log.Warn("page refused", "room", "console", "operator", operator(r), "path", r.URL.Path, "err", err)
	c.render(w, status, "problem", v)
}

// own lets pass what the operator asked for, and not what a page of another origin asks for behind her back, reads included: an export
// copies the whole log and is written into it in her name. A link that she follows leads to a page (Fetch Metadata, 2.2 to 2.4).
func (c *Console) own(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		site := r.Header.Get("Sec-Fetch-Site")
		asked := site == "" || site == "same-origin" || site == "none" // empty: no browser
		follows := r.Method == http.MethodGet && r.Header.Get("Sec-Fetch-Mode") == "navigate" && r.Header.Get("Sec-Fetch-Dest") == "document" && !strings.HasPrefix(r.URL.Path, "/api/")
		if !asked && !follows {
			c.foreign(w, r)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// foreign answers a request that a page of another origin caused.
func (c *Console) foreign(w http.ResponseWriter, r *http.Request) {
	v := c.view(r, "")
	v.Title, v.Problem = v.Words.NotFound, v.Words.Refused
	c.log.Warn("cross-origin request refused", "room", "console", "operator", operator(r), "path", r.URL.Path)
	c.render(w, http.StatusForbidden, "problem", v)
}
