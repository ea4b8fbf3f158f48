// SPDX-License-Identifier: Apache-2.0

// Package page is the lab in a browser: the screens of the simulated boxes, live, with their keyboard and mouse, a tray of
// cards, fingers to place and links to spoil; and the way to the operators' page of the gateway.
package page

import (
	"bytes"
	"context"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"html/template"
	"net"
	"net/http"
	"strings"
	"time"

	"sdbox/agent/keys"
	"sdbox/internal/ident"
	"sdbox/internal/lab/house"
	labnet "sdbox/internal/lab/net"
)

//go:embed web
var web embed.FS

const (
	bodyMax   = 64 << 10         // of a request, bytes
	eventsMax = 512              // input events in one request
	touchWait = 3 * time.Second  // how long a finger rests on a sensor nobody reads
	cardWait  = 10 * time.Second // for the reader to take a card
)

// Lab serves the lab page for a house.
type Lab struct {
	site      *house.Site
	page      *template.Template
	operators string // address of the operators' page, shown as a link
}

// New makes the lab page of a house. Operators is the address at which the operators' page is entered.
func New(site *house.Site, operators string) (*Lab, error) {
	t, err := template.ParseFS(web, "web/lab.html")
	if err != nil {
		return nil, fmt.Errorf("lab page: %w", err)
	}
	return &Lab{site: site, page: t, operators: operators}, nil
}

// Handler answers at address, "127.0.0.1:8080", and nowhere else: a request with another Host or from another origin is
// refused, so that no page of the internet plays with the lab through the person's browser.
func (l *Lab) Handler(address string) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", l.index)
	mux.HandleFunc("GET /page.js", static("web/page.js", "text/javascript; charset=utf-8"))
	mux.HandleFunc("GET /style.css", static("web/style.css", "text/css; charset=utf-8"))
	mux.HandleFunc("GET /icon.svg", static("web/icon.svg", "image/svg+xml"))
	mux.HandleFunc("GET /state", l.state)
	mux.HandleFunc("GET /boxes/{serial}/screen", l.screen)
	mux.HandleFunc("POST /boxes/{serial}/input", l.input)
	mux.HandleFunc("POST /boxes/{serial}/finger", l.finger)
	mux.HandleFunc("POST /boxes/{serial}/link", l.link)
	mux.HandleFunc("POST /cards/{guid}", l.card)
	return guard(address, mux)
}

// guard admits requests for this very address, and state-changing ones only from its own pages.
func guard(address string, next http.Handler) http.Handler {
	_, port, _ := net.SplitHostPort(address)
	same := http.NewCrossOriginProtection().Handler(next)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Host != address && r.Host != "localhost:"+port {
			http.Error(w, "this page answers at http://"+address+" only", http.StatusMisdirectedRequest)
			return
		}
		h := w.Header()
		h.Set("Content-Security-Policy", "default-src 'self'; img-src 'self' blob:; base-uri 'none'; form-action 'self'; frame-ancestors 'none'")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cache-Control", "no-store")
		same.ServeHTTP(w, r)
	})
}

func static(name, kind string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", kind)
		http.ServeFileFS(w, r, web, name)
	}
}

func (l *Lab) index(w http.ResponseWriter, r *http.Request) {
	var out bytes.Buffer
	err := l.page.Execute(&out, map[string]any{"Boxes": l.site.Boxes, "People": l.site.People, "Operators": l.operators, "Bubbles": l.site.Bubbles})
	if err != nil {
		http.Error(w, "the page cannot be drawn: "+err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	_, _ = out.WriteTo(w) // the browser has gone: nobody to tell
}

// State is what the page shows beside the screens.
type State struct {
	Boxes []BoxState  `json:"boxes"`
	Cards []CardState `json:"cards"`
}

// BoxState is the link and the reader of one box.
type BoxState struct {
	Serial    string  `json:"serial"`
	Card      string  `json:"card"` // whose, or empty
	Running   bool    `json:"running"`
	Delay     int64   `json:"delay"` // ms one way
	Loss      float64 `json:"loss"`  // percent
	NoUDP     bool    `json:"no_udp"`
	Unplugged bool    `json:"unplugged"`
}

// CardState is one card of the tray.
type CardState struct {
	GUID string `json:"guid"`
	Name string `json:"name"`
	Box  string `json:"box"`
}

func (l *Lab) state(w http.ResponseWriter, r *http.Request) {
	var s State
	for _, c := range l.site.Tray.Cards() {
		s.Cards = append(s.Cards, CardState{GUID: c.GUID.String(), Name: c.Name, Box: c.Box})
	}
	for _, b := range l.site.Boxes {
		c := b.Link.Conditions()
		state := BoxState{Serial: b.Serial, Running: b.Running(), Delay: c.Delay.Milliseconds(), Loss: c.Loss * 100, NoUDP: c.NoUDP, Unplugged: c.Unplugged}
		for _, card := range s.Cards {
			if card.Box == b.Serial {
				state.Card = card.Name
			}
		}
		s.Boxes = append(s.Boxes, state)
	}
	answer(w, s)
}

func answer(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v) // the browser has gone: nobody to tell
}

func (l *Lab) screen(w http.ResponseWriter, r *http.Request) {
	box, ok := l.box(w, r)
	if !ok {
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	control := http.NewResponseController(w)
	flush := func() error {
		return errors.Join(control.SetWriteDeadline(time.Now().Add(30*time.Second)), control.Flush())
	}
	if err := flush(); err != nil {
		return
	}
	_ = streamScreen(r.Context(), box.ScreenFile(), w, flush) // ends when the browser goes
}

// box finds the box a request names, or answers that there is none.
func (l *Lab) box(w http.ResponseWriter, r *http.Request) (*house.Box, bool) {
	serial := r.PathValue("serial")
	for _, b := range l.site.Boxes {
		if b.Serial == serial {
			return b, true
		}
	}
	http.Error(w, "there is no such box", http.StatusNotFound)
	return nil, false
}

// read decodes a JSON body strictly, or answers what is wrong with it.
func read(w http.ResponseWriter, r *http.Request, into any) bool {
	d := json.NewDecoder(http.MaxBytesReader(w, r.Body, bodyMax))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		http.Error(w, "cannot read the request: "+err.Error(), http.StatusBadRequest)
		return false
	}
	return true
}

// done answers a request that has no content to return.
func done(w http.ResponseWriter, err error) {
	if err != nil {
		http.Error(w, err.Error(), http.StatusConflict)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// inputEvent is one thing done on the box's keyboard or mouse.
type inputEvent struct {
	Kind   string `json:"kind"` // "key", "move", "button", "wheel"
	Code   uint16 `json:"code,omitempty"`
	Down   int32  `json:"down,omitempty"` // 0 up, 1 down, 2 repeat
	X      int32  `json:"x,omitempty"`    // 0..32767
	Y      int32  `json:"y,omitempty"`
	Button string `json:"button,omitempty"` // "left", "middle", "right"
	Steps  int32  `json:"steps,omitempty"`
}

// raw turns it into the events a device would send.
func (e inputEvent) raw() ([]keys.Raw, error) {
	switch e.Kind {
	case "key":
		if e.Code == 0 || e.Code > 255 || e.Down < 0 || e.Down > 2 {
			return nil, fmt.Errorf("key %d %d: want code 1 to 255, down 0 to 2", e.Code, e.Down)
		}
		return keys.Key(e.Code, e.Down), nil
	case "move":
		if e.X < 0 || e.Y < 0 || e.X > keys.AbsMax || e.Y > keys.AbsMax {
			return nil, fmt.Errorf("move to %d,%d: want 0 to %d", e.X, e.Y, keys.AbsMax)
		}
		return keys.Move(e.X, e.Y), nil
	case "button":
		button, ok := map[string]keys.Buttons{"left": keys.Left, "middle": keys.Middle, "right": keys.Right}[e.Button]
		if !ok {
			return nil, fmt.Errorf("button %q: want left, middle or right", e.Button)
		}
		return keys.Button(button, e.Down != 0), nil
	case "wheel":
		return keys.Wheel(max(-8, min(8, e.Steps))), nil
	}
	return nil, fmt.Errorf("input %q: want key, move, button or wheel", e.Kind)
}

func (l *Lab) input(w http.ResponseWriter, r *http.Request) {
	box, ok := l.box(w, r)
	var events []inputEvent
	if !ok || !read(w, r, &events) {
		return
	}
	if len(events) > eventsMax {
		http.Error(w, "too many events at once", http.StatusBadRequest)
		return
	}
	var raws []keys.Raw
	for _, e := range events {
		raw, err := e.raw()
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		raws = append(raws, raw...)
	}
	done(w, box.Keyboard.Send(raws...))
}

func (l *Lab) finger(w http.ResponseWriter, r *http.Request) {
	box, ok := l.box(w, r)
	var body struct {
		Person string `json:"person"`
		Finger string `json:"finger"`
	}
	if !ok || !read(w, r, &body) {
		return
	}
	person, err := l.site.Person(body.Person)
	if err != nil {
		done(w, err)
		return
	}
	impression, err := person.Impression(house.Finger(body.Finger))
	if err != nil {
		done(w, err)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), touchWait)
	defer cancel()
	if _, err := box.Touch(ctx, impression); err != nil {
		done(w, errors.New("the box is not asking for a finger now"))
		return
	}
	done(w, nil)
}

func (l *Lab) link(w http.ResponseWriter, r *http.Request) {
	box, ok := l.box(w, r)
	var body struct {
		Delay     int64   `json:"delay"`
		Loss      float64 `json:"loss"`
		NoUDP     bool    `json:"no_udp"`
		Unplugged bool    `json:"unplugged"`
	}
	if !ok || !read(w, r, &body) {
		return
	}
	if body.Delay < 0 || body.Delay > 10000 {
		http.Error(w, "delay: want 0 to 10000 ms", http.StatusBadRequest)
		return
	}
	done(w, box.SetLink(r.Context(), labnet.Conditions{
		Delay: time.Duration(body.Delay) * time.Millisecond, Loss: body.Loss / 100, NoUDP: body.NoUDP, Unplugged: body.Unplugged,
	}))
}

// card moves a card: into the box named, or back into the tray when none is.
func (l *Lab) card(w http.ResponseWriter, r *http.Request) {
	guid, err := ident.ParseGUID(strings.ToLower(r.PathValue("guid")))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	var body struct {
		Box string `json:"box"`
	}
	if !read(w, r, &body) {
		return
	}
	if body.Box == "" {
		done(w, l.site.Tray.Eject(guid))
		return
	}
	r.SetPathValue("serial", body.Box)
	if box, ok := l.box(w, r); ok {
		ctx, cancel := context.WithTimeout(r.Context(), cardWait)
		defer cancel()
		done(w, l.site.Tray.Insert(ctx, guid, box))
	}
}
