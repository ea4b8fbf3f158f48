// SPDX-License-Identifier: Apache-2.0

package console

import (
	"archive/tar"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"sdbox/gateway/frontdoor"
	"sdbox/gateway/registry"
	"sdbox/gateway/session"
	"sdbox/gateway/store"
	"sdbox/internal/ident"
	"sdbox/internal/refusal"
)

// inputError is a request that does not read well: the caller's to mend.
type inputError struct {
	err  error
	hint string
}

func (e *inputError) Error() string { return e.err.Error() }

func wrong(hint, format string, args ...any) error {
	return &inputError{fmt.Errorf(format, args...), hint}
}

func (c *Console) routeAPI(mux *http.ServeMux) {
	for pattern, handle := range map[string]func(*http.Request) (any, error){
		"GET /api/v1/boxes":                  func(r *http.Request) (any, error) { return c.boxes(r.Context()) },
		"POST /api/v1/boxes":                 c.addBox,
		"POST /api/v1/boxes/{name}/retire":   c.retireBox,
		"GET /api/v1/boxes/{name}/ping":      c.pingBox,
		"GET /api/v1/people":                 c.people,
		"POST /api/v1/people":                c.addPerson,
		"GET /api/v1/cards":                  c.cards,
		"POST /api/v1/cards":                 c.addCard,
		"POST /api/v1/cards/{name}/revoke":   c.revokeCard,
		"GET /api/v1/bubbles":                c.bubbles,
		"POST /api/v1/bubbles":               c.addBubble,
		"GET /api/v1/memberships":            c.memberships,
		"POST /api/v1/memberships":           c.addMembership,
		"POST /api/v1/memberships/remove":    c.removeMembership,
		"GET /api/v1/references":             c.references,
		"POST /api/v1/references":            c.addReference,
		"POST /api/v1/references/retire":     c.retireReference,
		"GET /api/v1/releases":               c.releases,
		"POST /api/v1/releases":              c.addRelease,
		"POST /api/v1/releases/offer":        c.offerRelease,
		"POST /api/v1/releases/retire":       c.retireRelease,
		"PUT " + releaseFiles + "{sha256}":   c.putReleaseFile,
		"GET /api/v1/locks":                  c.locks,
		"POST /api/v1/locks":                 c.addLock,
		"POST /api/v1/locks/{id}/lift":       c.liftLock,
		"GET /api/v1/sessions":               func(*http.Request) (any, error) { return c.sessions(), nil },
		"POST /api/v1/sessions/{id}/cut":     c.cutAPI,
		"POST /api/v1/sessions/{id}/message": c.messageAPI,
		"GET /api/v1/refusals/{code}":        c.why,
	} {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodPut { // a file takes longer than words
				if err := http.NewResponseController(w).SetReadDeadline(time.Now().Add(fileTime)); err != nil {
					c.answerError(w, r, err)
					return
				}
			}
			answer, err := handle(r)
			if err != nil {
				c.answerError(w, r, err)
				return
			}
			c.answer(w, http.StatusOK, answer)
		})
	}
	mux.HandleFunc("GET /api/v1/audit/export", c.export)
}

func (c *Console) answer(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	if err := json.NewEncoder(w).Encode(body); err != nil {
		c.log.Debug("answer", "room", "console", "err", err) // the reader went away
	}
}

// answerError turns an error of the rooms below into a status and words for an operator.
func (c *Console) answerError(w http.ResponseWriter, r *http.Request, err error) {
	var input *inputError
	var field *registry.InputError
	switch {
	case errors.As(err, &input):
		c.answerProblem(w, r, http.StatusUnprocessableEntity, err, input.hint)
	case errors.As(err, &field):
		c.answerProblem(w, r, http.StatusUnprocessableEntity, field, "look at the field "+field.Field)
	case isGone(err):
		c.answerProblem(w, r, http.StatusGone, errors.New("this session has already ended"), "sdboxctl sessions lists those that live")
	case isAway(err):
		c.answerProblem(w, r, http.StatusConflict, err, "the card is out, or the finger not yet placed; nothing was sent")
	case errors.Is(err, frontdoor.ErrSilent):
		c.answerProblem(w, r, http.StatusGatewayTimeout, err, "sdboxctl box list says whether it is attested; if so, look at its power and its network")
	case errors.Is(err, store.ErrNotFound):
		c.answerProblem(w, r, http.StatusNotFound, err, lists(r.URL.Path))
	case errors.Is(err, store.ErrExists):
		c.answerProblem(w, r, http.StatusConflict, err, "it is already registered; nothing was changed")
	case errors.Is(err, store.ErrConflict):
		c.answerProblem(w, r, http.StatusConflict, err, "its state does not allow this; nothing was changed")
	case errors.Is(err, store.ErrFull):
		c.log.Error("request failed", "room", "console", "operator", operator(r), "path", r.URL.Path, "err", err)
		c.answerProblem(w, r, http.StatusInsufficientStorage, errors.New("the gateway's disk has no room"), "make room on it and try again; nothing was changed")
	case errors.Is(err, store.ErrUnknown):
		c.log.Error("request failed", "room", "console", "operator", operator(r), "path", r.URL.Path, "err", err)
		c.answerProblem(w, r, http.StatusServiceUnavailable, errors.New("the database did not say whether it was done"), "look whether it is there before you try again")
	default:
		c.log.Error("request failed", "room", "console", "operator", operator(r), "path", r.URL.Path, "err", err)
		c.answerProblem(w, r, http.StatusInternalServerError, errors.New("the gateway could not do this"), "its log says why; nothing was changed")
	}
}

// lists says which command lists the things of an address.
func lists(path string) string {
	kind, _, _ := strings.Cut(strings.TrimPrefix(path, "/api/v1/"), "/")
	switch kind {
	case "boxes":
		return "sdboxctl box list shows what there is"
	case "cards":
		return "sdboxctl card list shows what there is"
	case "locks":
		if path == "/api/v1/locks" {
			return "write it as sdboxctl box list, card list, person list or bubble list do; nothing was locked"
		}
		return "sdboxctl lock list shows what there is"
	case "memberships":
		return "sdboxctl person list, bubble list and member list show what there is"
	case "references":
		return "sdboxctl reference list shows what there is"
	case "releases":
		return "sdboxctl release list shows what there is"
	case "refusals":
		return "read it from the screen again; the code is known to the gateway that the box was at"
	}
	return "the GET of the same address lists what there is"
}

func (c *Console) answerProblem(w http.ResponseWriter, _ *http.Request, status int, err error, hint string) {
	c.answer(w, status, Problem{Error: err.Error(), Hint: hint})
}

func isGone(err error) bool { return errors.Is(err, session.ErrGone) }

// read decodes a JSON body strictly.
func read[T any](r *http.Request) (T, error) {
	var v T
	if kind, _, _ := strings.Cut(r.Header.Get("Content-Type"), ";"); kind != "application/json" {
		return v, wrong("send Content-Type: application/json", "the body is not JSON")
	}
	dec := json.NewDecoder(r.Body)
	dec.DisallowUnknownFields()
	if err := dec.Decode(&v); err != nil {
		return v, wrong("the API's fields are listed by the GET of the same address", "the body does not read: %v", err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return v, wrong("", "there is more than one value in the body")
	}
	return v, nil
}

func by(r *http.Request) string { return "operator:" + operator(r) }

// sessions lists the live sessions for people and for the API.
func (c *Console) sessions() []Session {
	list := []Session{}
	for _, l := range c.conf.Sessions.Live() {
		s := Session{ID: l.ID.String(), Person: l.Person, Box: l.Box, Country: l.Country, Bubble: l.Bubble, Title: l.Title,
			State: string(l.State), Since: l.Since.UTC(), DelayMS: (l.Delay + time.Millisecond/2).Milliseconds()}
		if l.Bubble != "" {
			s.Colour = fmt.Sprintf("#%06x", l.Colour)
		}
		if !l.Lost.IsZero() {
			s.LostSince = l.Lost.UTC()
		}
		for _, actor := range l.Watchers {
			s.WatchedBy = append(s.WatchedBy, strings.TrimPrefix(actor, "operator:"))
		}
		list = append(list, s)
	}
	return list
}

func (c *Console) cutAPI(r *http.Request) (any, error) {
	body, err := read[Cut](r)
	if err != nil {
		return nil, err
	}
	reason, err := checkWords("reason", body.Reason)
	if err != nil {
		return nil, wrong("the person reads it on the screen", "%v", err)
	}
	return struct{}{}, c.cut(r, reason)
}

func (c *Console) cut(r *http.Request, reason string) error {
	id, err := ident.ParseID(r.PathValue("id"))
	if err != nil {
		return wrong("sdboxctl sessions lists the ids", "%v", err)
	}
	c.log.Info("cut", "room", "console", "operator", operator(r), "session", id.String())
	return c.conf.Sessions.Cut(r.Context(), id, by(r), reason)
}

// why finds what stands behind a code that a person reads from the screen, the newest first.
func (c *Console) why(r *http.Request) (any, error) {
	code, suffix, ok := strings.Cut(strings.ToUpper(r.PathValue("code")), "-")
	row, known := refusal.Lookup(refusal.Code(code))
	if !ok || !known || len(suffix) != 3 {
		return nil, wrong("the screen shows it beside the support contact", "want a code with its suffix, such as C05-7K2")
	}
	rows, err := c.conf.Store.Audit(r.Context(), store.AuditFilter{Code: code + "-" + suffix, Newest: true, Limit: 20})
	if err != nil {
		return nil, err
	}
	list := []Why{}
	for _, a := range rows {
		var leaf store.Leaf
		if err := json.Unmarshal(a.Leaf, &leaf); err != nil {
			return nil, err
		}
		w := Why{At: time.UnixMilli(leaf.At).UTC(), Code: leaf.Code, Action: leaf.Action, Actor: leaf.Actor, Object: leaf.Object, Session: leaf.Session,
			Detail: leaf.Fields, Means: row.EN.Title, Fix: string(row.Fix)}
		list = append(list, w)
	}
	if len(list) == 0 {
		return nil, fmt.Errorf("no refusal %s-%s: %w", code, suffix, store.ErrNotFound)
	}
	return list, nil
}

// export sends the whole audit log as a tar of the folder that sdboxctl audit verify reads.
func (c *Console) export(w http.ResponseWriter, r *http.Request) {
	dir, err := os.MkdirTemp(c.conf.Scratch, "export-")
	if err != nil {
		c.answerError(w, r, err)
		return
	}
	defer os.RemoveAll(dir)
	e := store.Entry{Actor: by(r), Action: "audit.export", Object: "gateway:" + c.conf.Gateway}
	if err := c.conf.Store.Change(r.Context(), e, func(*store.Tx) error { return nil }); err != nil {
		c.answerError(w, r, err)
		return
	}
	folder := filepath.Join(dir, "audit")
	if err := c.conf.Audit.Export(r.Context(), folder); err != nil {
		c.answerError(w, r, err)
		return
	}
	w.Header().Set("Content-Type", "application/x-tar")
	if err := sendTar(w, folder); err != nil {
		c.log.Warn("export", "room", "console", "err", err)
		panic(http.ErrAbortHandler) // the reader must not take half an export for a whole one
	}
}

func sendTar(w io.Writer, folder string) error {
	out := tar.NewWriter(w)
	files := os.DirFS(folder)
	err := fs.WalkDir(files, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if err := out.WriteHeader(&tar.Header{Name: name, Mode: 0o600, Size: info.Size(), ModTime: info.ModTime().UTC()}); err != nil {
			return err
		}
		f, err := files.Open(name)
		if err != nil {
			return err
		}
		_, err = io.Copy(out, f)
		return errors.Join(err, f.Close())
	})
	return errors.Join(err, out.Close())
}
