// SPDX-License-Identifier: Apache-2.0

package console

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"

	"sdbox/gateway/session"
	"sdbox/internal/ident"
)

func (c *Console) messagePage(w http.ResponseWriter, r *http.Request) {
	if s, ok := c.found(w, r, Session.CanTell); ok {
		c.askMessage(w, r, http.StatusOK, s, "", "")
	}
}

func (c *Console) askMessage(w http.ResponseWriter, r *http.Request, status int, s Session, text, problem string) {
	v := c.view(r, "sessions")
	v.Title = fmt.Sprintf(v.Words.TellTitle, s.Person)
	v.Session, v.Text, v.Problem, v.Confirm = s, text, problem, fmt.Sprintf(v.Words.TellConfirm, s.Person)
	c.render(w, status, "message", v)
}

func (c *Console) messageForm(w http.ResponseWriter, r *http.Request) {
	s, ok := c.found(w, r, Session.CanTell)
	if !ok {
		return
	}
	text, err := checkWords("message", r.PostFormValue("text"))
	if err != nil {
		c.askMessage(w, r, http.StatusUnprocessableEntity, s, text, c.view(r, "").Words.TellMissing)
		return
	}
	if err := c.tell(r, text); err != nil {
		c.failed(w, r, err)
		return
	}
	http.Redirect(w, r, "/?told="+url.QueryEscape(s.Person), http.StatusSeeOther)
}

func (c *Console) messageAPI(r *http.Request) (any, error) {
	body, err := read[Message](r)
	if err != nil {
		return nil, err
	}
	text, err := checkWords("message", body.Text)
	if err != nil {
		return nil, wrong("the person reads it on the screen", "%v", err)
	}
	return struct{}{}, c.tell(r, text)
}

func (c *Console) tell(r *http.Request, text string) error {
	id, err := ident.ParseID(r.PathValue("id"))
	if err != nil {
		return wrong("sdboxctl sessions lists the ids", "%v", err)
	}
	c.log.Info("message", "room", "console", "operator", operator(r), "session", id.String())
	return c.conf.Sessions.Tell(r.Context(), id, by(r), text)
}

func isAway(err error) bool { return errors.Is(err, session.ErrAway) }
