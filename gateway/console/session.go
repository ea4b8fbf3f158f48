// SPDX-License-Identifier: Apache-2.0

package console

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"time"

	"sdbox/gateway/store"
	"sdbox/internal/ident"
)

// maxPast is how many rows of the audit log a session's page looks at, the newest.
const maxPast = 100

// Past is one thing that happened in a session, as its page tells it.
type Past struct {
	At     time.Time
	What   string // in the page's language
	Detail string // a bubble, a reason, a message: as it was written
	Code   string
	Who    string // an operator's name; empty for box and gateway
}

// sessionPage is who is at work in one session and what happened in it. While the page's feed is open the person reads that an
// operator looks.
func (c *Console) sessionPage(w http.ResponseWriter, r *http.Request) {
	s, ok := c.found(w, r, func(Session) bool { return true })
	if !ok {
		return
	}
	v := c.view(r, "sessions")
	v.Title, v.Session = s.Person, s
	var err error
	if v.Past, err = c.past(r.Context(), s.ID, v.Words); err != nil {
		c.failed(w, r, err)
		return
	}
	c.render(w, http.StatusOK, "session", v)
}

// watchFeed keeps a session's page true, and counts it as looked at for as long as it is open.
func (c *Console) watchFeed(w http.ResponseWriter, r *http.Request) {
	id, err := ident.ParseID(r.PathValue("id"))
	if err != nil {
		http.Error(w, "there is no such session", http.StatusNotFound)
		return
	}
	stop, err := c.conf.Sessions.Watch(r.Context(), id, by(r))
	if isGone(err) { // since the page was loaded: a status would only say that something failed
		c.stream(w, r, func() ([]byte, bool) { return nil, true })
		return
	}
	if err != nil {
		c.log.Error("watch", "room", "console", "operator", operator(r), "session", id.String(), "err", err)
		http.Error(w, "this session cannot be watched", http.StatusServiceUnavailable)
		return
	}
	defer func() {
		if err := stop(); err != nil {
			c.log.Error("watching has ended, unwritten", "room", "console", "operator", operator(r), "session", id.String(), "err", err)
		}
	}()
	v := c.view(r, "sessions")
	c.stream(w, r, func() ([]byte, bool) {
		list := c.sessions()
		i := slices.IndexFunc(list, func(s Session) bool { return s.ID == id.String() })
		if i >= 0 {
			v.Session = list[i]
		} else {
			v.Session.State, v.Session.WatchedBy = "ended", nil
		}
		if v.Past, err = c.past(r.Context(), id.String(), v.Words); err != nil {
			c.log.Error("page", "room", "console", "page", "watched", "err", err)
			return nil, false
		}
		var rows bytes.Buffer
		if err := c.pages.ExecuteTemplate(&rows, "watched", v); err != nil {
			c.log.Error("page", "room", "console", "page", "watched", "err", err)
			return nil, false
		}
		return rows.Bytes(), i < 0
	})
}

// past tells what the audit log has of a session, the newest first. Renewals of its grant, which come by the clock, are left out.
func (c *Console) past(ctx context.Context, session string, words words) (list []Past, err error) {
	id, err := ident.ParseID(session)
	if err != nil {
		return nil, err
	}
	rows, err := c.conf.Store.Audit(ctx, store.AuditFilter{Session: id, Newest: true, Limit: maxPast})
	if err != nil {
		return nil, err
	}
	for _, row := range rows {
		var leaf store.Leaf
		if err := json.Unmarshal(row.Leaf, &leaf); err != nil {
			return nil, err
		}
		if leaf.Fields["reason"] == "grant renewed" {
			continue
		}
		p := Past{At: time.UnixMilli(leaf.At).UTC(), What: words.happened(leaf), Detail: detail(leaf), Code: leaf.Code}
		if name, is := strings.CutPrefix(leaf.Actor, "operator:"); is {
			p.Who = name
		}
		list = append(list, p)
	}
	return list, nil
}

// detail is what a row says beside its action: the bubble, an operator's own words.
func detail(l store.Leaf) string {
	parts := []string{l.Fields["bubble"], l.Fields["text"], l.Fields["cause"]}
	if strings.HasPrefix(l.Actor, "operator:") {
		parts = append(parts, l.Fields["reason"])
	}
	return strings.Join(slices.DeleteFunc(parts, func(s string) bool { return s == "" }), " · ")
}
